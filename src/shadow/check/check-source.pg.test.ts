import { expect, test } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { check, named } from '#test/check.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';

const NOW = { openSMax: 0, preparedSMax: 0 };
const TABLE = 'CREATE TABLE public.t (id int PRIMARY KEY)';

/** The findings that speak of this database: the server is shared with other tests. */
async function aboutTransactions(source: TestDatabase, target: TestDatabase) {
  const sides = { source: source.endpoint, target: target.endpoint };
  const { findings } = await check(sides, { ages: NOW });
  return findings.filter(({ object }) => object.endsWith(`in database "${source.name}"`));
}

test('transactions that a new slot would wait for are named, prepared ones too (trap 3)', async () => {
  await using source = await createTestDatabase(15, TABLE);
  await using target = await createTestDatabase(15);
  await using other = await openSession(source.endpoint, { applicationName: 'somebody' });
  await other.query(
    `BEGIN; INSERT INTO public.t VALUES (1); PREPARE TRANSACTION '${source.name} it''s'`,
  );
  await other.query('BEGIN; INSERT INTO public.t VALUES (2)');

  const before = await aboutTransactions(source, target);
  expect(before.map(({ id, severity, object }) => `${severity} ${id} ${object}`)).toEqual([
    `refuse prepared-transaction prepared transaction '${source.name} it''s' in database "${source.name}"`,
    `warn long-transaction process ${other.processId} of role "postgres" in database "${source.name}"`,
  ]);
  for (const { fix } of before) await source.session.query(fix?.text ?? '');
  expect(await aboutTransactions(source, target)).toEqual([]);
});

test('a transaction that only reads is no obstacle', async () => {
  await using source = await createTestDatabase(18, TABLE);
  await using target = await createTestDatabase(18);
  await using other = await openSession(source.endpoint, { applicationName: 'somebody' });
  await other.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM public.t');
  expect(await aboutTransactions(source, target)).toEqual([]);
});

test('a table that is locked is left unproven rather than waited for', async () => {
  await using source = await createTestDatabase(16, TABLE);
  await using target = await createTestDatabase(16);
  await using other = await openSession(source.endpoint, { applicationName: 'somebody' });
  await other.query('BEGIN; LOCK TABLE public.t IN SHARE MODE');
  const result = await check({ source: source.endpoint, target: target.endpoint });
  expect(named(result, 'warn')).toEqual(['publication-unproven table "public"."t"']);
  expect(result.isRefused).toBe(false);
});

/**
 * Everything that is stored about this database, but for what the server itself keeps up to date, and
 * what lives in the server as a whole under our name.
 */
async function readCatalogs({ session, name }: TestDatabase): Promise<Record<string, unknown>> {
  const catalogs = await session.query(
    `SELECT relname FROM pg_class
      WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
        AND relname NOT IN ('pg_statistic', 'pg_largeobject')`,
  );
  const state: Record<string, unknown> = {};
  for (const { relname } of catalogs) {
    const [row] = await session.query(
      `SELECT md5(coalesce(string_agg(line, E'\\n' ORDER BY line), '')) AS hash, count(*) AS rows
         FROM (SELECT (to_jsonb(t) - '{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}'::text[])::text AS line
                 FROM pg_catalog.${relname} t) AS lines`,
    );
    state[relname ?? ''] = row;
  }
  state['slots'] = await session.query(
    'SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = $1',
    [name],
  );
  state['settings'] = await session.query(
    `SELECT * FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = $1`,
    [name],
  );
  state['prepared'] = await session.query('SELECT gid FROM pg_prepared_xacts WHERE database = $1', [
    name,
  ]);
  state['shared'] = await session.query(
    `SELECT classid, objid, refobjid FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
      WHERE datname = $1 ORDER BY 1, 2, 3`,
    [name],
  );
  return state;
}

const TABLES_MANY = 200;
const RUN_MS_MAX = 1500;

test.each([14, 15, 18] as const)(
  'on %i it changes nothing on either side and is quick with 200 tables (trap 10)',
  async (version) => {
    await using source = await createTestDatabase(
      version,
      `CREATE TABLE public.keyless (a int);
       CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'a trigger of production fired'; END $$;
       DO $$ BEGIN FOR i IN 1..${TABLES_MANY} LOOP
         EXECUTE format('CREATE TABLE public.t%s (id int PRIMARY KEY, a text, b jsonb, c numeric)', i);
         EXECUTE format('CREATE TRIGGER noisy BEFORE UPDATE OR DELETE ON public.t%s EXECUTE FUNCTION public.fail()', i);
       END LOOP; END $$`,
    );
    await using target = await createTestDatabase(version, TABLE);
    const before = [await readCatalogs(source), await readCatalogs(target)];
    const startedAt = performance.now();
    const result = await check({ source: source.endpoint, target: target.endpoint });
    expect(performance.now() - startedAt).toBeLessThan(RUN_MS_MAX);
    expect(named(result)).toEqual(['no-key table "public"."keyless"']);
    expect([await readCatalogs(source), await readCatalogs(target)]).toEqual(before);
  },
);
