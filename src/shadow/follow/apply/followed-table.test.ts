import { describe, expect, test } from 'vitest';

import { WHOLE } from '#src/core/chunk.ts';
import type { Relation } from '#src/wire/postgres/pgoutput.ts';
import { type TestTable, testFollowedTable } from '#test/followed-table.ts';

import { describeShapeChange, followedTable } from './followed-table.ts';

const INT4 = 23;
const NUMERIC = 1700;
const USERS = 16_500;

const definition: TestTable = {
  oid: 5,
  name: 'item',
  columns: { id: INT4, price: NUMERIC, mood: USERS },
  key: ['id'],
};
const relation: Relation = {
  oid: 5,
  schema: 'public',
  name: 'item',
  columns: [
    { name: 'id', typeOid: INT4, typeModifier: -1, isKey: true },
    { name: 'price', typeOid: NUMERIC, typeModifier: -1, isKey: false },
    { name: 'mood', typeOid: USERS, typeModifier: -1, isKey: false },
  ],
};
const [id, price, mood] = relation.columns;

describe('the shape of a table in the stream', () => {
  const table = testFollowedTable(definition);

  test.each<[string, Partial<Relation>, string | undefined]>([
    ['is the same', {}, undefined],
    [
      'has every column in its identity (FULL)',
      { columns: [id!, { ...price!, isKey: true }, mood!] },
      undefined,
    ],
    // Its modifier is an extension's own, and may differ between versions.
    [
      'has another modifier of a user type',
      { columns: [id!, price!, { ...mood!, typeModifier: 4 }] },
      undefined,
    ],
    ['has another name', { name: 'items' }, 'it is called "public"."items" now'],
    ['is in another schema', { schema: 'old' }, 'it is called "old"."item" now'],
    [
      'has one column more',
      { columns: [...relation.columns, { ...price!, name: 'tax' }] },
      'column "tax" was added',
    ],
    ['lacks its last column', { columns: [id!, price!] }, 'column "mood" was dropped'],
    [
      'lacks a column',
      { columns: [id!, mood!] },
      'column "price" is gone or has another name ("mood")',
    ],
    [
      'has another type',
      { columns: [id!, { ...price!, typeOid: INT4 }, mood!] },
      'column "price" has another type',
    ],
    [
      // The cast of set statements would round what fits into the wider column.
      'has another modifier',
      { columns: [id!, { ...price!, typeModifier: 655_366 }, mood!] },
      'column "price" has another type modifier than on the target',
    ],
    [
      'has another replica identity',
      { columns: [{ ...id!, isKey: false }, { ...price!, isKey: true }, mood!] },
      'column "id" is no longer of its replica identity',
    ],
  ])('%s', (_, change, expected) => {
    expect(describeShapeChange(table, { ...relation, ...change })).toBe(expected);
  });
});

describe('a table that the target has otherwise', () => {
  const parts = {
    record: testFollowedTable(definition).record,
    targetColumns: new Map(),
    chunking: WHOLE,
    format: 'text' as const,
  };

  test('is changed', () => {
    expect(() => followedTable(parts)).toThrow(
      expect.objectContaining({ code: 'TABLE_CHANGED', detail: { relation: 5 } }),
    );
  });

  test('needs nothing once it has stopped, else the follower would try for ever', () => {
    const record = { ...parts.record, state: 'stopped' as const };
    expect(followedTable({ ...parts, record }).isStopped).toBe(true);
  });
});

test('a plan for another column than the leading one of the key is not followed', () => {
  const chunking = { strategy: 'range', column: 'price', width: 2n } as const;
  expect(testFollowedTable({ ...definition, chunking }).chunking).toEqual(WHOLE);
});
