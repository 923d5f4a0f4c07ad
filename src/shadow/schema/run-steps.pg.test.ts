import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';
import { dump, readScript, restore, SHADOW_ID, stepOptions } from '#test/schema-copy.ts';

import { findExistingRelations, isPreDataRestored } from './restore.ts';
import { runSteps } from './run-steps.ts';

const TABLES = `
CREATE TABLE public.a (id int PRIMARY KEY, b int UNIQUE, c int);
CREATE TABLE public.b (id int PRIMARY KEY REFERENCES public.a, c int);
CREATE INDEX a_c ON public.a (c);
CREATE INDEX b_c ON public.b (c);
INSERT INTO public.a SELECT i, i, i FROM generate_series(1, 100) i`;

/** An index that takes an hour, unless it is cancelled. */
const SLOW_INDEX = `
CREATE FUNCTION public.slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN IF pg_catalog.current_setting('application_name') LIKE '%schema' THEN PERFORM pg_catalog.pg_sleep(3600); END IF; RETURN $1; END $$;
CREATE TABLE public.t (a int);
CREATE INDEX t_slow ON public.t (public.slow(a));
CREATE INDEX t_bad ON public.t ((1 / a));`;

async function stepBackends(db: TestDatabase, condition: string): Promise<number> {
  const rows = await db.session.query(
    `SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'understudy ${SHADOW_ID} schema' AND ${condition}`,
  );
  return rows.length;
}

async function until(fact: () => Promise<boolean>): Promise<void> {
  const deadline = AbortSignal.timeout(10_000);
  while (!(await fact())) deadline.throwIfAborted();
}

test('a run that dies at any step goes on where it was (pains 6 and 7)', async () => {
  await using source = await createTestDatabase(15, TABLES);
  await using target = await createTestDatabase(15);
  const script = await readScript(source);
  await restore(target, script);
  const seen: string[] = [];
  for (let deaths = 0; ; deaths += 1) {
    const name = deaths % 2 === 0 ? 'step.beforeCommit' : 'step.afterCommit';
    const failpoints = createFailpoints(`${name}:2`, () => {
      throw new Error('died');
    });
    const failure: unknown = await runSteps(
      stepOptions(target, { jobs: 1, failpoints, report: (event) => seen.push(event.type) }),
    ).catch((error: unknown) => error);
    if (failure === undefined) break;
    expect(failure).toMatchObject({ message: 'died' });
    expect(deaths).toBeLessThan(script.steps.length);
  }
  const done = await target.session.query('SELECT FROM understudy.step WHERE done_at IS NULL');
  expect(done).toEqual([]);
  expect(await dump(target)).toBe(await dump(source));
});

test('a lost connection is opened again', async () => {
  await using source = await createTestDatabase(16, TABLES);
  await using target = await createTestDatabase(16);
  await restore(target, await readScript(source));
  await using locker = await openSession(target.endpoint, { applicationName: 'locker' });
  await locker.query('BEGIN; LOCK TABLE public.a IN ACCESS EXCLUSIVE MODE');
  const finished = runSteps(stepOptions(target));
  await until(async () => (await stepBackends(target, `wait_event_type = 'Lock'`)) > 0);
  await target.session.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  await locker.query('COMMIT');
  await finished;
  expect(await dump(target)).toBe(await dump(source));
});

test('a refused definition names the object, and a later run gets past it', async () => {
  await using source = await createTestDatabase(17, TABLES);
  await using target = await createTestDatabase(18);
  await restore(target, await readScript(source));
  await target.session.query('INSERT INTO public.a VALUES (1, 7, 0), (2, 7, 0)');
  await expect(runSteps(stepOptions(target))).rejects.toMatchObject({
    code: 'SCHEMA_RESTORE_FAILED',
    message: expect.stringContaining('constraint public.a a_b_key (SQLSTATE 23505)'),
    detail: { sqlstate: '23505', object: 'public.a a_b_key' },
  });
  await target.session.query('UPDATE public.a SET b = id');
  await runSteps(stepOptions(target));
});

test('what a function says of a row during a step is not told, only the object and the SQLSTATE (trap 21)', async () => {
  const ddl = `
    CREATE FUNCTION public.part(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN IF v = 'zqrow bad' THEN RAISE EXCEPTION 'bad email %', v; END IF; RETURN v; END $$;
    CREATE TABLE public.t (v text);
    CREATE INDEX t_part ON public.t (public.part(v))`;
  await using source = await createTestDatabase(18, ddl);
  await using target = await createTestDatabase(18);
  await restore(target, await readScript(source));
  await target.session.query(`INSERT INTO public.t VALUES ('zqrow bad')`);
  const refused: unknown = await runSteps(stepOptions(target)).catch((error: unknown) => error);
  expect(refused).toMatchObject({
    code: 'SCHEMA_RESTORE_FAILED',
    message: expect.stringMatching(/public.t_part \(SQLSTATE P0001\)/),
  });
  expect(String(refused)).not.toContain('zqrow');
});

test('an abort ends what the server is doing', async () => {
  await using source = await createTestDatabase(18, SLOW_INDEX);
  await using target = await createTestDatabase(18);
  await restore(target, await readScript(source));
  await target.session.query('INSERT INTO public.t VALUES (1)');
  const stop = new AbortController();
  const stopLater = async () => {
    await until(async () => (await stepBackends(target, `wait_event = 'PgSleep'`)) > 0);
    stop.abort(new Error('stopped'));
  };
  const stopped = stopLater();
  await expect(runSteps(stepOptions(target, { signal: stop.signal }))).rejects.toThrow('stopped');
  await stopped;
  await until(async () => (await stepBackends(target, 'true')) === 0);
});

test('a failure ends the steps beside it', async () => {
  await using source = await createTestDatabase(18, SLOW_INDEX);
  await using target = await createTestDatabase(18);
  await restore(target, await readScript(source));
  await target.session.query('INSERT INTO public.t VALUES (0)');
  await expect(runSteps(stepOptions(target))).rejects.toMatchObject({
    detail: { sqlstate: '22012', object: 'public.t_bad' },
  });
  await until(async () => (await stepBackends(target, 'true')) === 0);
});

test('a definition that is refused before the data leaves nothing behind', async () => {
  await using source = await createTestDatabase(
    14,
    `CREATE SCHEMA s; CREATE TABLE s.a (a int); CREATE TABLE s.b (a int)`,
  );
  await using target = await createTestDatabase(14, 'CREATE SCHEMA s; CREATE TABLE s.b (z int)');
  const script = await readScript(source);
  expect(await findExistingRelations(target.session, script.tables)).toEqual([
    { schema: 's', name: 'b' },
  ]);
  await expect(restore(target, script)).rejects.toMatchObject({
    code: 'SCHEMA_RESTORE_FAILED',
    message: expect.stringContaining('table s.b (SQLSTATE 42P07)'),
  });
  expect(await isPreDataRestored(target.session, SHADOW_ID)).toBe(false);
  expect(await findExistingRelations(target.session, [{ schema: 's', name: 'a' }])).toEqual([]);
  await target.session.query('DROP TABLE s.b');
  await restore(target, script);
  expect(await isPreDataRestored(target.session, SHADOW_ID)).toBe(true);
});

test('a selection leaves out what reads or references the other tables', async () => {
  await using source = await createTestDatabase(
    18,
    `CREATE SCHEMA x; CREATE SCHEMA y;
     CREATE TABLE x.kept (id serial PRIMARY KEY, gone_id int);
     CREATE TABLE x.gone (id serial PRIMARY KEY);
     CREATE TABLE y.all_gone (id serial PRIMARY KEY);
     CREATE TYPE y.color AS ENUM ('red'); ALTER TABLE x.kept ADD color y.color;
     ALTER TABLE x.kept ADD CONSTRAINT f FOREIGN KEY (gone_id) REFERENCES x.gone;
     CREATE VIEW x.over_kept AS SELECT id FROM x.kept;
     CREATE VIEW x.over_gone AS SELECT id FROM x.gone;
     CREATE MATERIALIZED VIEW x.over_over AS SELECT id FROM x.over_gone;
     CREATE TABLE x.part (k int) PARTITION BY LIST (k);
     CREATE TABLE x.part_1 PARTITION OF x.part FOR VALUES IN (1);
     CREATE TABLE x.part_2 PARTITION OF x.part FOR VALUES IN (2);`,
  );
  await using target = await createTestDatabase(18);
  const script = await readScript(source, {
    ...EVERYTHING,
    tables: ['x.kept', 'x.part'],
    exclude: ['x.part_2'],
  });
  expect(script.skipped.map((skipped) => skipped.object)).toEqual(['x.kept f']);
  await restore(target, script);
  await runSteps(stepOptions(target));
  const rows = await target.session.query(
    `SELECT relname FROM pg_class c WHERE relnamespace IN ('x'::regnamespace, 'y'::regnamespace)
        AND relkind NOT IN ('i', 'c') ORDER BY 1`,
  );
  expect(rows.map((row) => row['relname'])).toEqual([
    'kept',
    'kept_id_seq',
    'over_kept',
    'part',
    'part_1',
  ]);
});

test('forced row security is put off for a role that it would stop', async () => {
  await using source = await createTestDatabase(
    16,
    `CREATE TABLE public.t (a int); ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;
     ALTER TABLE public.t FORCE ROW LEVEL SECURITY`,
  );
  await using target = await createTestDatabase(16);
  const script = await readScript(source);
  const role = `owner_${target.name}`;
  target.dropRoleAfterwards(role);
  await target.session.query(
    `CREATE ROLE ${role} LOGIN PASSWORD '${target.endpoint.password}'; GRANT ALL ON SCHEMA public TO ${role};
     GRANT ALL ON DATABASE ${target.name} TO ${role}; SET SESSION AUTHORIZATION ${role}`,
  );
  await restore(target, script);
  await runSteps({ ...stepOptions(target), target: { ...target.endpoint, user: role } });
  expect(await target.session.query('SELECT FROM public.t')).toEqual([]);
  const rows = await target.session.query('SELECT undo FROM understudy.adjustment');
  expect(rows).toEqual([{ undo: 'ALTER TABLE ONLY "public"."t" FORCE ROW LEVEL SECURITY' }]);
  await target.session.query('RESET SESSION AUTHORIZATION');
});
