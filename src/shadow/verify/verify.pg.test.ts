import { expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';

import { repairShadow } from './repair.ts';
import { verifyShadow, type VerifyOptions } from './verify.ts';

async function optionsNow(source: TestDatabase, target: TestDatabase): Promise<VerifyOptions> {
  return {
    source: source.endpoint,
    target: target.endpoint,
    tables: await readTables(source.session, EVERYTHING),
    sequences: [],
    leftOut: [],
    shadowId: undefined,
    moment: { kind: 'now' },
    isFull: false,
    jobs: 2,
    report: () => undefined,
    failpoints: createFailpoints(undefined),
    signal: new AbortController().signal,
  };
}

async function verifyNow(
  source: TestDatabase,
  target: TestDatabase,
  options: Partial<VerifyOptions> = {},
) {
  const events: ProgressEvent[] = [];
  const verdict = await verifyShadow({
    ...(await optionsNow(source, target)),
    report: (event) => events.push(event),
    ...options,
  });
  return { ...verdict, events };
}

const SHOP = `
  CREATE SCHEMA shop;
  CREATE TYPE shop.state AS ENUM ('new', 'paid');
  CREATE TABLE shop.orders (id bigint PRIMARY KEY, state shop.state, total numeric, note jsonb,
                            at timestamptz, doubled bigint GENERATED ALWAYS AS (id * 2) STORED);
  INSERT INTO shop.orders (id, state, total, note, at)
    SELECT i - 5000, (ARRAY['new', 'paid'])[i % 2 + 1]::shop.state, i / 3.0,
           jsonb_build_object('n', i), timestamptz '2026-01-01+00' + i * interval '1 s'
      FROM generate_series(1, 40000) i;
  CREATE TABLE shop."Weird ""name" ("Kéy" text, sub smallint, "select" text, PRIMARY KEY ("Kéy", sub));
  INSERT INTO shop."Weird ""name" SELECT 'k' || i % 100, i / 100, 'v' || i FROM generate_series(0, 4999) i;
  CREATE TABLE shop.log (line text, n numeric);
  INSERT INTO shop.log SELECT 'line', 1 FROM generate_series(1, 300);
  CREATE TABLE shop.nothing (a int PRIMARY KEY);
  CREATE TABLE shop.bare ();
  INSERT INTO shop.bare DEFAULT VALUES;`;

test('equal sides are found equal, from 14 to 18', async () => {
  await using source = await createTestDatabase(14, SHOP);
  await using target = await createTestDatabase(18, SHOP);
  const verdict = await verifyNow(source, target);
  expect(verdict.listed).toEqual([]);
  expect(verdict).toMatchObject({
    scope: 'full',
    lsn: undefined,
    tables: 5,
    rows: 45_301,
    differences: 0,
    unverified: [],
  });
  expect(verdict.chunksRead).toBe(verdict.chunks);
  expect(verdict.caveats[0]).toContain('nobody wrote');
  expect(verdict.events.at(-1)).toMatchObject({ type: 'verified', differences: 0 });
});

test('each difference is named by table, key, kind and columns', async () => {
  await using source = await createTestDatabase(18, SHOP);
  await using target = await createTestDatabase(18, SHOP);
  await target.session.query(`
    UPDATE shop.orders SET total = 1.0, state = NULL WHERE id = -4997;
    UPDATE shop.orders SET note = '{"n": 7.0}' WHERE id = -4993;
    DELETE FROM shop.orders WHERE id = 30000;
    INSERT INTO shop.orders (id) VALUES (-4611686018427387904);
    UPDATE shop."Weird ""name" SET "select" = NULL WHERE "Kéy" = 'k7' AND sub = 3;
    UPDATE shop."Weird ""name" SET "Kéy" = 'K9' WHERE "Kéy" = 'k9' AND sub = 3;
    UPDATE shop.log SET n = 1.0 WHERE ctid = '(0,1)';
    INSERT INTO shop.log VALUES ('line', 1), (NULL, NULL);`);
  const verdict = await verifyNow(source, target);
  const orders = { schema: 'shop', name: 'orders' };
  const weird = { schema: 'shop', name: 'Weird "name' };
  const log = { schema: 'shop', name: 'log' };
  const expected = [
    { kind: 'changed', table: orders, key: { id: '-4997' }, columns: ['state', 'total'] },
    { kind: 'changed', table: orders, key: { id: '-4993' }, columns: ['note'] },
    { kind: 'missing', table: orders, key: { id: '30000' }, columns: [] },
    { kind: 'extra', table: orders, key: { id: '-4611686018427387904' }, columns: [] },
    { kind: 'changed', table: weird, key: { Kéy: 'k7', sub: '3' }, columns: ['select'] },
    { kind: 'missing', table: weird, key: { Kéy: 'k9', sub: '3' }, columns: [] },
    { kind: 'extra', table: weird, key: { Kéy: 'K9', sub: '3' }, columns: [] },
    // Duplicates count: the source has 300 equal lines, the target 300 of the same and two others.
    { kind: 'extra', table: log, key: {}, columns: [] },
    { kind: 'extra', table: log, key: {}, columns: [] },
  ];
  expect(verdict.listed).toHaveLength(expected.length);
  expect(verdict.listed).toEqual(expect.arrayContaining(expected));
  expect(verdict.differences).toBe(expected.length);
});

test('many differences are all counted, and the first ones listed', async () => {
  await using source = await createTestDatabase(16, SHOP);
  await using target = await createTestDatabase(17, SHOP);
  await target.session.query(`UPDATE shop.orders SET at = at + interval '1 microsecond'`);
  const verdict = await verifyNow(source, target);
  expect(verdict.differences).toBe(40_000);
  expect(verdict.listed).toHaveLength(200);
  expect(verdict.listed[0]).toMatchObject({ kind: 'changed', columns: ['at'] });
});

test('what is not there, or is made otherwise, is a difference of its own', async () => {
  await using source = await createTestDatabase(
    18,
    `CREATE TABLE public.gone (id int PRIMARY KEY);
     CREATE TABLE public.retyped (id int PRIMARY KEY, a int, b text);
     INSERT INTO public.retyped VALUES (1, 1, 'x');
     CREATE TABLE public.rekeyed (id int PRIMARY KEY);
     CREATE SEQUENCE public.ahead; CREATE SEQUENCE public.behind; CREATE SEQUENCE public.unused;
     CREATE SEQUENCE public.down INCREMENT -1;
     SELECT setval('public.ahead', 5), setval('public.behind', 5), setval('public.down', -5)`,
  );
  await using target = await createTestDatabase(
    18,
    `CREATE TABLE public.retyped (id int PRIMARY KEY, a bigint, b text, c text);
     INSERT INTO public.retyped VALUES (1, 2, 'y');
     CREATE TABLE public.rekeyed (id text PRIMARY KEY);
     CREATE SEQUENCE public.ahead; CREATE SEQUENCE public.behind; CREATE SEQUENCE public.unused;
     CREATE SEQUENCE public.down INCREMENT -1;
     SELECT setval('public.ahead', 50), setval('public.behind', 4), setval('public.down', -4)`,
  );
  const verdict = await verifyNow(source, target, {
    sequences: ['ahead', 'behind', 'down', 'unused'].map((name) => ({ schema: 'public', name })),
  });
  expect(
    verdict.listed.map(
      (one) => `${one.kind} ${one.table.name} ${'cause' in one ? one.cause : one.columns.join()}`,
    ),
  ).toEqual([
    'schema gone is not on the target',
    'schema rekeyed column id is integer, there text',
    'schema retyped column a is integer, there bigint',
    'schema retyped column c is on the target only',
    'sequence behind is at 5, there 4',
    'sequence down is at -5, there -4',
    'changed retyped b',
  ]);
});

test('a sequence that is locked once it is chosen is waited for by nobody, and not called the same (trap 27)', async () => {
  const sql = `CREATE SEQUENCE public.a; CREATE SEQUENCE public.b; SELECT setval('public.b', 5)`;
  await using source = await createTestDatabase(18, sql);
  await using target = await createTestDatabase(18, sql);
  const sequences = ['a', 'b'].map((name) => ({ schema: 'public', name }));
  for (const side of [source, target]) {
    await side.session.query('BEGIN; ALTER SEQUENCE public.b CACHE 10');
    expect(await verifyNow(source, target, { sequences })).toMatchObject({
      differences: 0,
      unverified: ['public.b (sequence: another transaction has locked it)'],
    });
    await side.session.query('ROLLBACK');
  }
  expect(await verifyNow(source, target, { sequences })).toMatchObject({ unverified: [] });
});

test('text keys are matched whatever the collations of the two databases (trap 23, complaint 7)', async () => {
  await using source = await createTestDatabase(18);
  await using target = await createTestDatabase(18);
  const icu = `${target.name}_icu`;
  const sql = `CREATE TABLE public.words (word text PRIMARY KEY, n int);
    INSERT INTO public.words SELECT w || i, i FROM generate_series(1, 700) i,
      unnest('{a,A,ä,Z,z,-a,_a,Á,ß,ss," a"}'::text[]) w`;
  await target.session.query(
    `CREATE DATABASE ${icu} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'sv'`,
  );
  try {
    const endpoint = { ...target.endpoint, database: icu };
    await using other = await openSession(endpoint, { applicationName: 'understudy test' });
    await source.session.query(sql);
    await other.query(sql);
    await other.query(`UPDATE public.words SET n = -1 WHERE word IN ('ä7', ' a7')`);
    const verdict = await verifyNow(source, { ...target, endpoint });
    const words = verdict.listed.map((one) => 'key' in one && one.key['word']);
    expect(words).toHaveLength(2);
    expect(new Set(words)).toEqual(new Set(['ä7', ' a7']));
  } finally {
    await target.session.query(`DROP DATABASE ${icu} WITH (FORCE)`);
  }
});

test('a table that is rewritten between the snapshot and its turn is not called different', async () => {
  const sql = `CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t SELECT generate_series(1, 9)`;
  await using source = await createTestDatabase(15, sql);
  await using target = await createTestDatabase(15, sql);
  await source.session.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
  const [row] = await source.session.query('SELECT pg_export_snapshot() AS snapshot');
  await using other = await openSession(source.endpoint, { applicationName: 'understudy test' });
  const tables = await readTables(other, EVERYTHING);
  await other.query('TRUNCATE public.t');
  const verdict = await verifyNow(source, target, {
    tables,
    moment: { kind: 'snapshot', sourceSnapshot: row?.['snapshot'] ?? '', lsn: lsn(1n) },
  });
  expect(verdict).toMatchObject({
    differences: 0,
    unverified: ['public.t (rewritten or locked meanwhile)'],
  });
});

test('without a follower a repair makes the target the source of one moment', async () => {
  await using source = await createTestDatabase(14, SHOP);
  await using target = await createTestDatabase(18, SHOP);
  await source.session.query('CREATE SEQUENCE shop.numbers; SELECT nextval($$shop.numbers$$)');
  await target.session.query(`
    CREATE SEQUENCE shop.numbers;
    CREATE FUNCTION shop.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''refused''; END';
    CREATE TRIGGER refuse BEFORE INSERT OR DELETE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.refuse();
    UPDATE shop.orders SET total = 'NaN', note = NULL WHERE id % 10 = 0;
    DELETE FROM shop."Weird ""name" WHERE sub = 7;
    DELETE FROM shop.log; INSERT INTO shop.log VALUES ('line', 1), ('line', 2);
    INSERT INTO shop.bare DEFAULT VALUES; INSERT INTO shop.nothing VALUES (1);`);
  const options = await optionsNow(source, target);
  const repair = await repairShadow({
    ...options,
    sequences: [{ schema: 'shop', name: 'numbers' }],
  });
  const rows = 4_000 + 100 + 299 + 1 + 1 + 1;
  expect(repair.found.differences).toBe(rows + 1);
  expect(repair.rows).toBe(rows);
  expect(repair.after).toMatchObject({ differences: 0, listed: [] });
});
