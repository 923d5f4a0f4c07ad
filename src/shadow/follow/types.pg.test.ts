import { describe, expect, test } from 'vitest';

import {
  insertValues,
  rotateValues,
  SAFE_ARRAYS,
  SAFE_VALUES,
  TEXT_VALUES,
  type TypeValues,
  USER_TYPES,
  valuesTable,
} from '#test/column-values.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import type { TestVersion } from '#test/postgres.ts';

/** Through every shape of statement: one by one, arrays, COPY. What differed after any of them. */
async function writeValues(
  pair: FollowedPair,
  tables: readonly (readonly [string, TypeValues])[],
): Promise<readonly string[]> {
  const { session } = pair.source;
  const differing: string[] = [];
  const everywhere = async (sql: (name: string, values: TypeValues) => string): Promise<void> => {
    for (const [name, values] of tables) await session.query(sql(name, values));
    // A batch of its own, so that the number of rows chooses the shape.
    differing.push(...(await differences(pair, ...tables.map(([one]) => `public.${one}`))));
  };
  await everywhere((name, values) => insertValues(name, values, { from: 1, to: 2 }));
  await everywhere((name, values) => insertValues(name, values, { from: 3, to: 30 }));
  await everywhere((name, values) => insertValues(name, values, { from: 31, to: 150 }));
  await everywhere((name, values) => rotateValues(name, values, 't.id <= 2'));
  await everywhere((name, values) => rotateValues(name, values, 't.id > 2'));
  await everywhere((name) => `DELETE FROM public.${name} WHERE id = 1`);
  await everywhere((name) => `DELETE FROM public.${name} WHERE id % 3 = 0`);
  return differing;
}

const PAIRS: readonly (readonly [TestVersion, TestVersion])[] = [
  [14, 18],
  [18, 18],
];

describe.each(PAIRS)('values of every built-in type, from %i to %i', (...versions) => {
  test('arrive in a binary stream', async () => {
    await using pair = await followPair(
      versions,
      [USER_TYPES, valuesTable('safe', SAFE_VALUES), valuesTable('arrays', SAFE_ARRAYS)].join('\n'),
    );
    expect(pair.shadow.streamFormat).toBe('binary');
    expect(
      await writeValues(pair, [
        ['safe', SAFE_VALUES],
        ['arrays', SAFE_ARRAYS],
      ]),
    ).toEqual([]);
  });

  test('arrive in a text stream, as soon as one column is not safe (pain 24)', async () => {
    await using pair = await followPair(
      versions,
      [
        USER_TYPES,
        valuesTable('safe', SAFE_VALUES),
        valuesTable('arrays', SAFE_ARRAYS),
        valuesTable('texts', TEXT_VALUES),
      ].join('\n'),
    );
    expect(pair.shadow.streamFormat).toBe('text');
    expect(
      await writeValues(pair, [
        ['safe', SAFE_VALUES],
        ['arrays', SAFE_ARRAYS],
        ['texts', TEXT_VALUES],
      ]),
    ).toEqual([]);
  });
});

describe.each<readonly [TestVersion, TestVersion]>([
  [15, 16],
  [17, 18],
])('from %i to %i', (...versions) => {
  test('values arrive', async () => {
    await using pair = await followPair(
      versions,
      [USER_TYPES, valuesTable('texts', TEXT_VALUES)].join('\n'),
    );
    expect(await writeValues(pair, [['texts', TEXT_VALUES]])).toEqual([]);
  });
});

test('settings of the roles have no effect on what crosses (trap 6)', async () => {
  const settings = [
    `datestyle = 'SQL, DMY'`,
    `intervalstyle = 'sql_standard'`,
    `timezone = 'Asia/Kathmandu'`,
    'extra_float_digits = -5',
    `bytea_output = 'escape'`,
    'array_nulls = off',
    'xmloption = document',
    `client_encoding = 'LATIN1'`,
    `search_path = 'public'`,
    'statement_timeout = 1',
    'lock_timeout = 1',
    `default_transaction_isolation = 'serializable'`,
    'synchronous_commit = off',
  ];
  await using pair = await followPair(
    [14, 18],
    [USER_TYPES, valuesTable('safe', SAFE_VALUES), valuesTable('texts', TEXT_VALUES)].join('\n'),
    {
      prepare: async (source, target) => {
        for (const { session, name } of [source, target]) {
          for (const setting of settings) {
            await session.query(`ALTER DATABASE ${name} SET ${setting}`);
          }
        }
        return {};
      },
    },
  );
  expect(
    await writeValues(pair, [
      ['safe', SAFE_VALUES],
      ['texts', TEXT_VALUES],
    ]),
  ).toEqual([]);
});
