import { describe, expect, test } from 'vitest';

import { parseColumnExclusion, parseRowFilter } from '#src/core/row-filter.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { check } from '#test/check.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

const SHOP = `
  CREATE SCHEMA shop;
  CREATE TYPE shop.mood AS ENUM ('good', 'bad');
  CREATE DOMAIN shop.needed AS text NOT NULL;
  CREATE FUNCTION shop.mine(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
  CREATE TABLE shop.orders (id int PRIMARY KEY, region int NOT NULL, mood shop.mood, at timestamptz,
    card text, card_end text GENERATED ALWAYS AS (right(card, 4)) STORED,
    code text UNIQUE, number int GENERATED ALWAYS AS IDENTITY, needed shop.needed);
  CREATE TABLE shop."Odd.""T" (id int PRIMARY KEY, "Col" text);
  CREATE TABLE shop.lines (id int PRIMARY KEY, code text REFERENCES shop.orders (code),
    order_id int REFERENCES shop.orders);
  CREATE TABLE shop.full (id int PRIMARY KEY, region int, card text);
  ALTER TABLE shop.full REPLICA IDENTITY FULL;
  CREATE TABLE shop.mother (id int PRIMARY KEY, card text);
  CREATE TABLE shop.child (PRIMARY KEY (id)) INHERITS (shop.mother);
  CREATE TABLE shop.checked (id int PRIMARY KEY, a int, b int, c int);
  ALTER TABLE shop.checked ADD CHECK (a IS NOT NULL) NOT VALID;
  CREATE TABLE shop.parts (id int PRIMARY KEY, card text) PARTITION BY RANGE (id);
  CREATE TABLE shop.part_1 PARTITION OF shop.parts FOR VALUES FROM (0) TO (10);
  CREATE TABLE shop.part_2 PARTITION OF shop.parts FOR VALUES FROM (10) TO (20);`;

function filtered(where: readonly string[], exclude: readonly string[] = []): Selection {
  return {
    ...EVERYTHING,
    where: where.map(parseRowFilter),
    excludeColumns: exclude.map(parseColumnExclusion),
  };
}

/** The servers are shared: what other tests use up is not about filters. */
function isOurs(id: string): boolean {
  return !id.startsWith('target-') && !id.startsWith('replication-');
}

async function shop(version: TestVersion) {
  const source = await createTestDatabase(version, SHOP);
  const target = await createTestDatabase(18);
  return {
    source,
    refusals: async (selection: Selection, isFollowed = true) => {
      const sides = { source: source.endpoint, target: target.endpoint };
      const result = await check(sides, { selection, isFollowed });
      return result.findings.filter(({ id, severity }) => severity === 'refuse' && isOurs(id));
    },
    all: async (selection: Selection) =>
      check({ source: source.endpoint, target: target.endpoint }, { selection }),
    async [Symbol.asyncDispose]() {
      await target[Symbol.asyncDispose]();
      await source[Symbol.asyncDispose]();
    },
  };
}

test.each<TestVersion>([15, 18])(
  'on %i a filter of the key, of FULL and of partitions harms nobody, and says what is left (trap 7)',
  async (version) => {
    await using db = await shop(version);
    const selection = filtered(
      [
        'shop.orders: id BETWEEN 1 AND 100 OR id > 1000',
        'shop.full: region = 7',
        'shop.parts: id % 2 = 0',
        'shop."Odd.""T": id > 5',
      ],
      ['shop.orders.card', 'shop.orders.code', 'shop."Odd.""T"."Col"', 'shop.parts.card'],
    );
    const result = await db.all(selection);
    expect(
      result.findings.filter(({ severity, id }) => severity === 'refuse' && isOurs(id)),
    ).toEqual([]);
    const told = result.findings.filter(({ id }) => id.endsWith('-filtered'));
    expect(told.map(({ object, cause }) => `${object}: ${cause}`)).toEqual([
      'table "shop"."Odd.""T": only rows matching (id > 5), and not its columns "Col" will be copied, followed and compared',
      'table "shop"."full": only rows matching (region = 7) will be copied, followed and compared',
      'table "shop"."orders": only rows matching (id BETWEEN 1 AND 100 OR id > 1000), and not its columns "card", "card_end", "code" will be copied, followed and compared',
      'table "shop"."part_1": only rows matching (id % 2 = 0), and not its columns "card" will be copied, followed and compared',
      'table "shop"."part_2": only rows matching (id % 2 = 0), and not its columns "card" will be copied, followed and compared',
      expect.stringContaining('"lines_code_fkey" of table "shop"."lines": a filter may leave out'),
      expect.stringContaining('"lines_order_id_fkey" of table "shop"."lines": a filter may'),
    ]);
    // Nothing of the proofs is left (trap 10).
    const left = await db.source.session.query(
      `SELECT pubname FROM pg_publication UNION ALL SELECT relname FROM pg_class WHERE relname ~ 'understudy'`,
    );
    expect(left).toEqual([]);
  },
);

describe('what would make production fail is refused before it could (trap 7)', () => {
  test.each([
    [
      'shop.orders: region = 7',
      undefined,
      /row filter looks at more than its replica identity \("id"\): UPDATE on/,
    ],
    [undefined, 'shop.full.card', /REPLICA IDENTITY FULL, of which no column may be excluded/],
  ])('%s %s', async (where, column, cause) => {
    await using db = await shop(18);
    const selection = filtered(
      where === undefined ? [] : [where],
      column === undefined ? [] : [column],
    );
    const [refusal, ...others] = await db.refusals(selection);
    expect(refusal).toMatchObject({ id: 'filter-unsafe', cause: expect.stringMatching(cause) });
    expect(new Set(others.map(({ id }) => id))).toEqual(
      new Set(others.length === 0 ? [] : ['filter-unsafe']),
    );
    // A copy alone leaves production as it is.
    expect(await db.refusals(selection, false)).toEqual([]);
  });
});

test.each<TestVersion>([14, 18])(
  'on %i a predicate that is none is refused with its table and the cause',
  async (version) => {
    await using db = await shop(version);
    const causes: readonly (readonly [string, RegExp])[] = [
      ['id >', /syntax error at end of input|syntax error at or near/],
      ['nothing = 1', /column "nothing" does not exist \(SQLSTATE 42703\)/],
      ['orders.id > 1', /missing FROM-clause entry/],
      ['id', /must be type boolean/],
      ['id IN (SELECT 1)', /cannot use subquery in index predicate/],
      ['count(*) > 1', /aggregate functions are not allowed/],
      ['at > now()', /must be marked IMMUTABLE/],
      ['random() > 0.5', /must be marked IMMUTABLE/],
      ["at::text > ''", /must be marked IMMUTABLE/],
      ['ctid IS NOT NULL', /system columns is not supported/],
      ['shop.mine(id)', /uses function shop.mine\(integer\), which is not built in/],
      ['generate_series(1, 2) > id', /set-returning functions are not allowed/],
    ];
    // A table for each, so that one check tells.
    const tables = causes.map((_, i) => `shop.copy_${String.fromCharCode(97 + i)}`);
    for (const table of tables) {
      await db.source.session.query(`CREATE TABLE ${table} (LIKE shop.orders, PRIMARY KEY (id))`);
    }
    const selection = filtered(causes.map(([predicate], i) => `${tables[i]}: ${predicate}`));
    const refusals = await db.refusals(selection, false);
    expect(refusals.map(({ id, object, cause }) => [id, object, cause])).toEqual(
      causes.map(([, cause], i) => [
        'filter-invalid',
        `table "${tables[i]?.replace('.', '"."')}"`,
        expect.stringMatching(cause),
      ]),
    );
    // Only a publication minds a type of the user's.
    const mood = filtered([`shop.full: region = 1`, `shop.orders: mood = 'good'`]);
    expect(await db.refusals(mood, false)).toEqual([]);
  },
);

test('of a filter that a publication refuses the check says so', async () => {
  await using db = await shop(17);
  await db.source.session.query('ALTER TABLE shop.orders REPLICA IDENTITY FULL');
  expect(await db.refusals(filtered([`shop.orders: mood = 'good'`]))).toMatchObject([
    { id: 'filter-invalid', object: 'table "shop"."orders"' },
  ]);
});

test('on 14 a followed shadow has no filters, and the way out is said', async () => {
  await using db = await shop(14);
  const selection = filtered(['shop.parts: id > 5'], ['shop.orders.card']);
  const refusals = await db.refusals(selection);
  expect(refusals.map(({ id, object }) => `${id} ${object}`)).toEqual([
    'filter-version table "shop"."parts"',
    'filter-version table "shop"."orders"',
  ]);
  expect(refusals[0]?.fix?.text).toContain('without --follow');
  expect(await db.refusals(selection, false)).toEqual([]);
});

test('a filter names a selected table and its columns, and no table is filtered twice', async () => {
  await using db = await shop(18);
  const shown = async (selection: Selection): Promise<string> =>
    (await db.refusals(selection))
      .map(({ id, object, cause }) => `${id} ${object}: ${cause}`)
      .toSorted()
      .join('\n');
  const names = await shown(
    filtered(
      ['shop.order: true', 'Shop.Odd: true', 'shop.parts: id > 1', 'shop.part_2: id > 2'],
      ['shop.orders.nothing'],
    ),
  );
  expect(names).toMatch(/^filter-overlap table "shop"."part_2"/m);
  expect(names).toMatch(/^filter-unknown table "shop"."odd"/m);
  expect(names).toMatch(/^filter-unknown table "shop"."order": .*no selected table/m);
  expect(names).toMatch(/^filter-unknown table "shop"."orders": its column "nothing"/m);
  expect(names.split('\n')).toHaveLength(4);
  await db.source.session.query('ALTER TABLE shop.checked ADD UNIQUE NULLS NOT DISTINCT (b)');
  const columns = await shown(
    filtered(
      [],
      [
        'shop.orders.id',
        'shop.orders.number',
        'shop.orders.needed',
        'shop.part_2.card',
        'shop.child.card',
        'shop.mother.card',
        'shop.checked.a',
        'shop.checked.b',
      ],
    ),
  );
  expect(columns).toMatch(/"id" cannot be excluded: rows are named by it/);
  expect(columns).toMatch(/"number" cannot be excluded: it is GENERATED AS IDENTITY/);
  expect(columns).toMatch(/"needed" cannot be excluded: its type shop.needed does not allow NULL/);
  expect(columns).toMatch(/"part_2": it is a partition, whose columns are those of/);
  expect(columns).toMatch(/"child": .*"card" cannot be excluded: its table inherits/);
  expect(columns).toMatch(/"mother": .*"card" cannot be excluded: its table inherits, or is inh/);
  expect(columns).toMatch(/"a" cannot be excluded: a CHECK that is NOT VALID looks at it/);
  expect(columns).toMatch(/"b" cannot be excluded: it is unique with NULLS NOT DISTINCT/);
  expect(columns.split('\n')).toHaveLength(8);
  // A copy alone may have no key, but not nothing.
  const whole = filtered([], ['shop.bare.a']);
  await db.source.session.query('CREATE TABLE shop.bare (a int)');
  expect((await db.refusals(whole, false)).map(({ cause }) => cause)).toEqual([
    'no column of it is left',
  ]);
});
