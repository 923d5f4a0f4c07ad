import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { type Chunking, chunkCondition, chunkExpression, chunkOfText } from '#src/core/chunk.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { planChunking, proposeChunking, readChunking } from './chunking.ts';

const int8 = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.bigInt({ min: -70_000n, max: 70_000n }),
  fc.constantFrom(-(2n ** 63n), 2n ** 63n - 1n, 0n, -1n),
);
const shift = fc.integer({ min: 0, max: 62 });
// A NUL cannot be stored, a lone surrogate is not text.
const text = fc.string({ unit: 'grapheme' }).map((value) => value.replaceAll('\0', ''));

test.each([14, 18] as const)(
  'Postgres %i computes the chunk that the applier computes',
  async (version) => {
    await using db = await createTestDatabase(version);
    const keys = fc.sample(int8, 400);
    for (const bits of [0, 1, 15, ...fc.sample(shift, 5), 62]) {
      const chunking: Chunking = { strategy: 'range', column: 'k"', width: 1n << BigInt(bits) };
      const rows = await db.session.query(
        `SELECT ${chunkExpression(chunking, 't')} AS chunk FROM unnest($1::int8[]) WITH ORDINALITY AS t ("k""", n) ORDER BY n`,
        [keys.map(String)],
      );
      expect(rows.map(({ chunk }) => chunk)).toEqual(
        keys.map((key) => String(chunkOfText(chunking, String(key)))),
      );
    }
    const texts = fc.sample(text, 500);
    const chunking: Chunking = { strategy: 'hash', column: 'k', width: 2n ** 16n };
    const rows = await db.session.query(
      `SELECT ${chunkExpression(chunking, 't')} AS chunk FROM unnest($1::text[]) WITH ORDINALITY AS t (k, n) ORDER BY n`,
      [texts],
    );
    expect(rows.map(({ chunk }) => chunk)).toEqual(
      texts.map((value) => String(chunkOfText(chunking, value))),
    );
  },
);

test('the condition of a span holds exactly for the rows of its chunks', async () => {
  await using db = await createTestDatabase(18);
  const keys = fc.sample(int8, 300).map(String);
  for (const [strategy, bits] of [
    ['range', 14],
    ['range', 62],
    ['hash', 3],
    ['whole', 0],
  ] as const) {
    const chunking: Chunking = { strategy, column: 'k', width: 1n << BigInt(bits) };
    for (const from of [-3n, -2n, -1n, 0n, 1n]) {
      const [row] = await db.session.query(
        `SELECT count(*) AS wrong FROM unnest($1::int8[]) AS t (k)
          WHERE (${chunkCondition(chunking, 't', { from, to: from + 1n })})
                <> (${chunkExpression(chunking, 't')} BETWEEN ${from} AND ${from + 1n}
                    OR ${strategy === 'whole'})`,
        [keys],
      );
      expect(row).toEqual({ wrong: '0' });
    }
  }
});

test('a plan is made once and stays', async () => {
  await using source = await createTestDatabase(
    14,
    `CREATE TABLE public.orders (id int PRIMARY KEY);
     INSERT INTO public.orders SELECT -i FROM generate_series(1, 100000) i;
     -- One stray key does not widen the chunks of all others.
     INSERT INTO public.orders VALUES (2147483647);
     CREATE TABLE public.people (email text PRIMARY KEY);
     CREATE TABLE public.log (line text);
     ANALYZE`,
  );
  await using target = await createTestDatabase(18, LEDGER_SCHEMA);
  const sides = { source: source.session, target: target.session };
  const tables = await readTables(source.session, EVERYTHING);
  const plan = await planChunking({ ...sides, shadowId: '0000000a', tables });
  expect(tables.map(({ name, oid }) => [name, plan.get(oid)])).toEqual([
    ['log', { strategy: 'whole', column: undefined, width: 1n }],
    ['orders', { strategy: 'range', column: 'id', width: 32_768n }],
    ['people', { strategy: 'hash', column: 'email', width: 1n }],
  ]);
  await source.session.query(
    'TRUNCATE public.orders; INSERT INTO public.orders VALUES (2000000000)',
  );
  expect(await planChunking({ ...sides, shadowId: '0000000a', tables })).toEqual(plan);
  expect(await readChunking(target.session, '0000000a')).toEqual(plan);
});

test('text keys of a database in another encoding are read whole', async () => {
  await using source = await createTestDatabase(15);
  await source.session.query(
    `CREATE DATABASE ${source.name}_latin ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`,
  );
  try {
    await using latin = await openSession(
      { ...source.endpoint, database: `${source.name}_latin` },
      { applicationName: 'understudy test' },
    );
    await latin.query('CREATE TABLE public.people (name text PRIMARY KEY)');
    const tables = await readTables(latin, EVERYTHING);
    const plan = await proposeChunking({ source: latin, target: source.session, tables });
    expect([...plan.values()].map(({ strategy }) => strategy)).toEqual(['whole']);
  } finally {
    await source.session.query(`DROP DATABASE ${source.name}_latin WITH (FORCE)`);
  }
});
