import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { compareShapes, describeChanges, rewriteChange, worstVerdict } from './schema-change.ts';
import type { RelationShape, ShapeColumn } from './schema-shape.ts';

function column(attnum: number, name: string, more: Partial<ShapeColumn> = {}): ShapeColumn {
  return {
    attnum,
    name,
    typeOid: 23,
    typmod: -1,
    type: 'integer',
    isNotNull: false,
    generated: '',
    identity: '',
    hasMissing: false,
    ...more,
  };
}

const TABLE: RelationShape = {
  oid: 16_500,
  schema: 'shop',
  name: 'orders',
  kind: 'r',
  persistence: 'p',
  fileNode: 16_500,
  identity: 'd',
  key: [1],
  partitionOf: null,
  inherits: [],
  partitions: [],
  columns: [column(1, 'id', { isNotNull: true }), column(2, 'total'), column(4, 'note')],
  types: [],
};

const MOOD = {
  oid: 16_600,
  name: 'shop.mood',
  labels: [
    { oid: 1, label: 'sad' },
    { oid: 2, label: 'glad' },
  ],
  attributes: [],
};

/** `TABLE` with other columns: what is in `changed` by attnum; undefined is gone. */
function withColumns(changed: Readonly<Record<number, ShapeColumn | undefined>>): RelationShape {
  const columns = new Map(TABLE.columns.map((one) => [one.attnum, one]));
  for (const [attnum, one] of Object.entries(changed)) {
    if (one === undefined) columns.delete(Number(attnum));
    else columns.set(Number(attnum), one);
  }
  return { ...TABLE, columns: [...columns.values()].toSorted((a, b) => a.attnum - b.attnum) };
}

describe('what a table became, by OID and attnum', () => {
  test.for<[string, Partial<RelationShape>, string, string]>([
    ['a rename', { name: 'sales' }, 'resume', 'it is called "shop"."sales" now'],
    ['another schema', { schema: 'old' }, 'resume', 'and was "shop"."orders"'],
    [
      'a column added',
      withColumns({ 5: column(5, 'state') }),
      'resume',
      'column "state" of type integer was added',
    ],
    [
      'a column added with a default',
      withColumns({ 5: column(5, 'state', { hasMissing: true }) }),
      'resume',
      'was added with a default',
    ],
    ['a column dropped', withColumns({ 4: undefined }), 'resume', 'column "note" was dropped'],
    [
      'a column renamed',
      withColumns({ 4: column(4, 'remark') }),
      'resume',
      'column "note" is called "remark" now',
    ],
    [
      'a column dropped and made again by the same name',
      withColumns({ 4: undefined, 5: column(5, 'note') }),
      'resume',
      'column "note" was dropped; column "note" of type integer was added',
    ],
    [
      'another type',
      withColumns({ 2: column(2, 'total', { typeOid: 20, type: 'bigint' }) }),
      'resume',
      'column "total" is of type bigint now, and was integer',
    ],
    [
      'another modifier',
      withColumns({ 2: column(2, 'total', { typmod: 14, type: 'numeric(5,2)' }) }),
      'resume',
      'is of type numeric(5,2) now',
    ],
    [
      'a generated column added',
      withColumns({ 5: column(5, 'sum', { generated: 's' }) }),
      'resume',
      'generated column "sum"',
    ],
    [
      'NOT NULL',
      withColumns({ 2: column(2, 'total', { isNotNull: true }) }),
      'goes on',
      'does not accept NULL any more',
    ],
    ['another key', { key: [2] }, 'resume', 'its rows are named by "total" now'],
    ['no key', { key: [] }, 'reseed', 'it has no replica identity any more'],
    ['REPLICA IDENTITY FULL', { identity: 'f' }, 'resume', 'REPLICA IDENTITY FULL'],
    ['the same key by an index', { identity: 'i' }, 'goes on', 'REPLICA IDENTITY USING INDEX'],
    ['ATTACH', { partitionOf: 16_000 }, 'resume', 'it was attached as a partition'],
    ['INHERIT', { inherits: [16_000] }, 'resume', 'it inherits from other tables now'],
    ['SET UNLOGGED', { persistence: 'u' }, 'reseed', 'it is unlogged now'],
  ])('%s (trap 19)', ([, after, verdict, text]) => {
    const changes = compareShapes(TABLE, { ...TABLE, ...after });
    expect(worstVerdict(changes)).toBe(verdict);
    expect(describeChanges(changes)).toContain(text);
  });

  test('a column with a default changes rows in silence, a column without does not', () => {
    const added = [true, false].map((hasMissing) =>
      compareShapes(TABLE, withColumns({ 5: column(5, 'state', { hasMissing }) })),
    );
    expect(added.map((changes) => changes.map(({ isSilent }) => isSilent))).toEqual([
      [true],
      [false],
    ]);
  });

  test('DETACH and ATTACH elsewhere are two changes', () => {
    const changes = compareShapes({ ...TABLE, partitionOf: 1 }, { ...TABLE, partitionOf: 2 });
    expect(changes.map(({ text }) => text)).toEqual([
      'it was detached from its partitioned table',
      'it was attached as a partition',
    ]);
  });

  test('another file alone is no other shape: VACUUM FULL and TRUNCATE do that, too', () => {
    expect(compareShapes(TABLE, { ...TABLE, fileNode: 1 })).toEqual([]);
  });

  test('a rewrite needs a new copy, unless it was for the access method alone', () => {
    expect([1, 2, 4, 12].map((reason) => rewriteChange(reason).verdict)).toEqual(
      Array.from({ length: 4 }, () => 'reseed'),
    );
    expect(rewriteChange(8).verdict).toBe('goes on');
  });

  test('a new label goes on and is said; a label that was renamed stops', () => {
    const types = (labels: typeof MOOD.labels): RelationShape => ({
      ...TABLE,
      types: [{ ...MOOD, labels }],
    });
    const added = compareShapes(
      types(MOOD.labels),
      types([{ oid: 3, label: 'new' }, ...MOOD.labels]),
    );
    expect(worstVerdict(added)).toBe('goes on');
    expect(describeChanges(added)).toContain('new label "new"');
    const renamed = compareShapes(
      types(MOOD.labels),
      types([{ oid: 1, label: 'blue' }, ...MOOD.labels.slice(1)]),
    );
    expect(worstVerdict(renamed)).toBe('resume');
    expect(describeChanges(renamed)).toContain('label "sad" of enum shop.mood is "blue" now');
  });

  test('attributes of a composite inside of a column stop the table', () => {
    const [before, after] = [['a'], ['a', 'b']].map((names) => ({
      ...TABLE,
      types: [
        {
          oid: 16_700,
          name: 'shop.pair',
          labels: [],
          attributes: names.map((name, i) => ({ attnum: i + 1, name, typeOid: 23, typmod: -1 })),
        },
      ],
    }));
    if (before === undefined || after === undefined) throw new Error('two shapes');
    expect(worstVerdict(compareShapes(before, after))).toBe('resume');
  });
});

const shapes = fc.record({
  name: fc.constantFrom('a', 'b'),
  schema: fc.constantFrom('s', 't'),
  identity: fc.constantFrom('d', 'i', 'f', 'n'),
  key: fc.subarray([1, 2, 3]),
  partitionOf: fc.constantFrom(null, 7, 8),
  columns: fc
    .uniqueArray(
      fc.record({
        attnum: fc.integer({ min: 1, max: 5 }),
        name: fc.constantFrom('x', 'y', 'z'),
        typeOid: fc.constantFrom(20, 23),
        typmod: fc.constantFrom(-1, 6),
        generated: fc.constantFrom('', 's'),
        identity: fc.constantFrom('', 'a'),
        isNotNull: fc.boolean(),
        hasMissing: fc.boolean(),
        type: fc.constant('t'),
      }),
      { selector: ({ attnum }) => attnum },
    )
    .map((columns) => columns.toSorted((a, b) => a.attnum - b.attnum)),
});

function streamed(shape: RelationShape): unknown {
  return [
    shape.schema,
    shape.name,
    shape.key,
    shape.columns
      .filter(({ generated }) => generated === '')
      .map(({ attnum, name, typeOid, typmod }) => [attnum, name, typeOid, typmod]),
  ];
}

test('whatever goes on has the same name and the same streamed columns and key', () => {
  fc.assert(
    fc.property(shapes, shapes, (a, b) => {
      const before: RelationShape = { ...TABLE, ...a };
      const after: RelationShape = { ...TABLE, ...b };
      if (worstVerdict(compareShapes(before, after)) !== 'goes on') return;
      expect(streamed(after)).toEqual(streamed(before));
    }),
  );
});

test('a table that looks the same has not changed, whatever it is', () => {
  fc.assert(
    fc.property(shapes, (a) => {
      const shape: RelationShape = { ...TABLE, ...a };
      expect(compareShapes(shape, structuredClone(shape))).toEqual([]);
    }),
  );
});
