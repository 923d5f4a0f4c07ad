import { expect, test } from 'vitest';

import { copyFormat } from '#src/core/copy-plan.ts';
import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { runCopy, tableDigest } from '#test/copy.ts';
import { createTestDatabase } from '#test/postgres.ts';

const SCHEMA = `
  CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'a "quoted", label');
  CREATE TYPE public.pair AS (a integer, b text);
  CREATE DOMAIN public.positive AS integer CHECK (VALUE > 0);

  CREATE TABLE public.binary_types (
    id bigint PRIMARY KEY, i2 smallint, i4 integer, f4 real, f8 double precision, n numeric,
    n2 numeric(12,4), b boolean, t text, v varchar(20), c char(8), ch "char", nm name, by bytea,
    d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb,
    ip inet, ci cidr, mac macaddr, mac8 macaddr8, bi bit(5), vb varbit, po point, li line, ls lseg,
    bo box, pa path, pg polygon, cr circle, lsn pg_lsn, m public.mood,
    ia integer[], ta text[], na numeric[], ja jsonb[], tsa timestamptz[][]);
  CREATE TABLE public.text_types (
    id bigint PRIMARY KEY, o oid, rc regclass, rt regtype, x xml, mo money, tv tsvector, tq tsquery,
    ir int4range, nr numrange, tr tstzrange, dom public.positive, comp public.pair, ma public.mood[],
    ca public.pair[], oa oid[], tx txid_snapshot, jp jsonpath);`;

const ROWS = `
  INSERT INTO public.binary_types
  SELECT i, (i % 65536 - 32768)::smallint, i * 7919, i / 3.0::real, i / 7.0::float8, (i::numeric ^ 7) / 1000,
         i / 10000.0, i % 2 = 0, repeat(chr(9 + i), i % 50) || E'\\\\ \\t \\n \\r ü€😀', 'v' || i, 'c' || i,
         'x', 'name' || i, sha256(i::text::bytea), date '1999-12-31' + i, time '00:00' + i * interval '1s',
         timetz '01:02:03.456789+05:30', timestamp '0044-03-15 BC' + i * interval '1 day 1us',
         timestamptz '2024-02-29 12:00:00.000001+00' + i * interval '1h', i * interval '1 mon -3 days 4.5s',
         md5(i::text)::uuid, '{"a": [1, 2.50, null]}', jsonb_build_object('k', i, 'n', 1.10, 't', 'ü'),
         ('10.1.' || i % 256 || '.7/24')::inet, ('10.' || i % 256 || '.0.0/16')::cidr, '08:00:2b:01:02:03',
         '08:00:2b:01:02:03:04:05', B'10101', i::bit(20)::varbit, point(i, -i / 3.0), '{1,2,3}',
         lseg(point(0, i), point(i, 0)), box(point(0, 0), point(i, i)), '((0,0),(1,1),(2,0))',
         '((0,0),(1,1),(2,0))', circle(point(i, i), i), '16/B374D848',
         (ARRAY['sad', 'ok', 'a "quoted", label'])[1 + i % 3]::public.mood, ARRAY[i, NULL, -i],
         ARRAY['', NULL, 'NULL', '{"', i::text], ARRAY[1.0, 1.00, 'NaN'], ARRAY['{"a":1}'::jsonb],
         ARRAY[[now(), 'infinity'], ['-infinity', 'epoch']]::timestamptz[]
    FROM generate_series(1, 500) i;
  INSERT INTO public.binary_types (id, f4, f8, n, d, ts, iv) VALUES
    (1001, 'NaN', '-0', 'NaN', 'infinity', '-infinity', '-178000000 years'),
    (1002, '1e-45', '1.7976931348623157e308', 'Infinity', '4713-01-01 BC', '294276-12-31', '0'),
    (1003, '-Infinity', '5e-324', '1e-1000', '5874897-12-31', 'epoch', '1 day 24 hours'),
    (1004, NULL, NULL, NULL, NULL, NULL, NULL);
  INSERT INTO public.text_types
  SELECT i, i, 'pg_catalog.pg_class', 'integer', '<a>&lt;</a>', i * 1.37::money, to_tsvector('simple', 'a b:1 ' || i),
         'a & b:*', int4range(i, i + 5), numrange(NULL, i / 3.0), tstzrange(now(), NULL), i, (i, E'a,"(\\\\')::public.pair,
         ARRAY['sad', NULL, 'a "quoted", label']::public.mood[], ARRAY[(1, NULL)::public.pair], ARRAY[1, 2]::oid[],
         '10:20:10,14', '$.a[*] ? (@ > 1)'
    FROM generate_series(1, 500) i;
  INSERT INTO public.text_types (id) VALUES (1001);`;

test.each([
  [14, 14],
  [14, 18],
  [18, 18],
] as const)('every built-in type has the same text on both sides, %i to %i', async (from, to) => {
  await using source = await createTestDatabase(from, SCHEMA + ROWS);
  await using target = await createTestDatabase(to, SCHEMA);
  const result = await runCopy({ source: source.endpoint, target: target.endpoint });
  expect(result.rows).toBe(504 + 501);
  const tables = await readTables(source.session, EVERYTHING);
  expect(tables.map(copyFormat)).toEqual(['binary', 'text']);
  for (const table of ['public.binary_types', 'public.text_types']) {
    expect(await tableDigest(target.session, table)).toBe(await tableDigest(source.session, table));
  }
});

test('names, shapes and sizes of tables that are not ordinary', async () => {
  const schema = `
    CREATE SCHEMA "Sp ace";
    CREATE TABLE "Sp ace"."Ta""ble; --" ("Co""l" integer, "select" text);
    CREATE TABLE public.empty (id integer);
    CREATE TABLE public.no_columns ();
    CREATE TABLE public.dropped (a integer, gone text, b text, gone_too jsonb, c integer);
    ALTER TABLE public.dropped DROP COLUMN gone, DROP COLUMN gone_too;
    CREATE TABLE public.generated (a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED,
                                   id integer GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE public.only_generated (one integer GENERATED ALWAYS AS (1) STORED);
    CREATE TABLE public.parted (id integer, v text) PARTITION BY RANGE (id);
    CREATE TABLE public.parted_low PARTITION OF public.parted FOR VALUES FROM (0) TO (500);
    CREATE TABLE public.parted_high PARTITION OF public.parted DEFAULT PARTITION BY HASH (id);
    CREATE TABLE public.parted_high_0 PARTITION OF public.parted_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE public.parted_high_1 PARTITION OF public.parted_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE public.toasted (id integer, v text);
    ALTER TABLE public.toasted ALTER COLUMN v SET STORAGE EXTERNAL;`;
  const rows = `
    INSERT INTO "Sp ace"."Ta""ble; --" SELECT i, 's' || i FROM generate_series(1, 10) i;
    INSERT INTO public.no_columns SELECT FROM generate_series(1, 7);
    INSERT INTO public.dropped SELECT i, 'b' || i, -i FROM generate_series(1, 10) i;
    INSERT INTO public.generated (a) SELECT i FROM generate_series(1, 10) i;
    DELETE FROM public.generated WHERE a = 5;
    INSERT INTO public.only_generated SELECT FROM generate_series(1, 3);
    INSERT INTO public.parted SELECT i, 'p' || i FROM generate_series(0, 999) i;
    INSERT INTO public.toasted SELECT i, repeat(md5(i::text), 100000) FROM generate_series(1, 5) i;
    INSERT INTO public.toasted VALUES (6, NULL), (7, '');`;
  await using source = await createTestDatabase(15, schema + rows);
  await using target = await createTestDatabase(17, schema);
  const events: ProgressEvent[] = [];
  await runCopy(
    { source: source.endpoint, target: target.endpoint, partBytes: 64 * 1024 },
    { report: (event) => events.push(event) },
  );
  for (const table of [
    '"Sp ace"."Ta""ble; --"',
    'public.empty',
    'public.no_columns',
    'public.dropped',
    'public.generated',
    'public.only_generated',
    'public.parted_low',
    'public.parted_high_0',
    'public.parted_high_1',
    'public.toasted',
  ]) {
    expect(await tableDigest(target.session, table)).toBe(await tableDigest(source.session, table));
  }
  expect(events.at(-1)).toMatchObject({ type: 'copyProgress', tables: 10, tablesCopied: 10 });
  const [ledger] = await target.session.query(
    `SELECT count(*) FILTER (WHERE state = 'copied') AS copied, sum(rows) AS rows FROM understudy.relation`,
  );
  expect(ledger).toEqual({ copied: '10', rows: String(10 + 7 + 10 + 9 + 3 + 1000 + 7) });
});

test('ordinary roles are enough: SELECT on the source, ownership and replica mode on the target', async () => {
  const schema = 'CREATE TABLE public.a (id integer, v text);';
  await using source = await createTestDatabase(15, schema);
  await using target = await createTestDatabase(16);
  const reader = `${source.name}_reader`;
  const owner = `${target.name}_owner`;
  source.dropRoleAfterwards(reader);
  target.dropRoleAfterwards(owner);
  // The right to set a parameter belongs to the server and outlives the database.
  await using stack = new AsyncDisposableStack();
  stack.defer(async () => void (await target.session.query(`DROP OWNED BY ${owner} CASCADE`)));
  await source.session.query(`
    INSERT INTO public.a SELECT i, 'v' || i FROM generate_series(1, 1000) i;
    CREATE ROLE ${reader} LOGIN PASSWORD 'reader'; GRANT SELECT ON public.a TO ${reader}`);
  await target.session.query(`
    CREATE ROLE ${owner} LOGIN PASSWORD 'owner'; ALTER DATABASE ${target.name} OWNER TO ${owner};
    GRANT SET ON PARAMETER session_replication_role TO ${owner};
    ${schema} ALTER TABLE public.a OWNER TO ${owner}`);
  const job = {
    source: { ...source.endpoint, user: reader, password: 'reader' },
    target: { ...target.endpoint, user: owner, password: 'owner' },
  };
  await runCopy(job);
  expect(await tableDigest(target.session, 'public.a')).toBe(
    await tableDigest(source.session, 'public.a'),
  );

  // Trap 5: rows that a policy hides are an error, not fewer rows.
  await source.session.query(`
    ALTER TABLE public.a ENABLE ROW LEVEL SECURITY;
    CREATE POLICY half ON public.a USING (id % 2 = 0)`);
  await target.session.query('DROP SCHEMA understudy CASCADE; TRUNCATE public.a');
  await expect(runCopy(job)).rejects.toMatchObject({ code: 'PRIVILEGE_MISSING' });
});

test.each([
  [
    'a RAISE, with whatever SQLSTATE',
    `RAISE EXCEPTION 'bad email %', v USING ERRCODE = 'object_in_use'`,
    '55006',
  ],
  ['a conversion to a name', 'PERFORM v::pg_catalog.regclass', '42P01'],
] as const)(
  'what a function behind a CHECK says of a row during the copy is not told: %s (trap 21)',
  async (_, statement, sqlstate) => {
    const table = 'CREATE TABLE public.t (id int PRIMARY KEY, v text)';
    await using source = await createTestDatabase(
      18,
      `${table}; INSERT INTO public.t VALUES (1, 'zqrow')`,
    );
    await using target = await createTestDatabase(
      18,
      `CREATE FUNCTION public.fine(v text) RETURNS boolean LANGUAGE plpgsql AS
         $$ BEGIN ${statement}; RETURN true; END $$;
       ${table}; ALTER TABLE public.t ADD CHECK (public.fine(v))`,
    );
    const copied = runCopy({ source: source.endpoint, target: target.endpoint });
    await expect(copied).rejects.toMatchObject({
      message: expect.not.stringContaining('zqrow'),
      detail: { sqlstate },
    });
    await expect(copied).rejects.toThrow(/COPY "public"."t".*SQLSTATE/);
  },
);
