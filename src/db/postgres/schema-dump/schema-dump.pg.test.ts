import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';

import { dumpSchema, type DumpOptions } from './schema-dump.ts';

const TIMEOUT_MS = 20_000;

function dumpOptions(endpoint: Endpoint, changes: Partial<DumpOptions> = {}): DumpOptions {
  return {
    endpoint,
    exclude: { relations: [], schemas: [] },
    signal: new AbortController().signal,
    timeoutMs: TIMEOUT_MS,
    ...changes,
  };
}

/** Resolves once a backend of the dump waits for a lock, with its process id. */
async function dumpBackend(db: TestDatabase): Promise<string> {
  const deadline = AbortSignal.timeout(TIMEOUT_MS);
  for (;;) {
    deadline.throwIfAborted();
    const [row] = await db.session.query(
      `SELECT pid FROM pg_stat_activity WHERE datname = current_database()
          AND application_name = 'understudy schema dump' AND wait_event_type = 'Lock'`,
    );
    const pid = row?.['pid'];
    if (typeof pid === 'string') return pid;
  }
}

/** A session that keeps pg_dump from taking its lock. */
async function lockTable(db: TestDatabase): Promise<AsyncDisposable> {
  const session = await openSession(db.endpoint, { applicationName: 'locker' });
  await session.query('BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE');
  return session;
}

test('a dump is that of the snapshot', async () => {
  await using db = await createTestDatabase(14, 'CREATE TABLE public.before (a int)');
  await using holder = await openSession(db.endpoint, { applicationName: 'holder' });
  const [row] = await holder.query(
    'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot() AS snapshot',
  );
  await db.session.query('CREATE TABLE public.after (a int)');
  const script = await dumpSchema(dumpOptions(db.endpoint, { snapshot: row?.['snapshot'] ?? '' }));
  expect(script).toContain('CREATE TABLE public.before');
  expect(script).not.toContain('CREATE TABLE public.after');
});

test('what is left out by name or by schema is not dumped, and needs no privilege', async () => {
  await using db = await createTestDatabase(
    16,
    `CREATE SCHEMA "od""d.*"; CREATE TABLE "od""d.*"."t*|$" (a int); CREATE TABLE "od""d.*".tx (a int);
     CREATE SCHEMA gone; CREATE TABLE gone.a (a int); CREATE TYPE gone.kept AS ENUM ('x')`,
  );
  const role = `reader_${db.name}`;
  db.dropRoleAfterwards(role);
  await db.session.query(
    `CREATE ROLE ${role} LOGIN PASSWORD '${db.endpoint.password}'; GRANT SELECT ON "od""d.*".tx TO ${role};
     GRANT USAGE ON SCHEMA "od""d.*", gone TO ${role}`,
  );
  const script = await dumpSchema(
    dumpOptions(
      { ...db.endpoint, user: role },
      { exclude: { relations: [{ schema: 'od"d.*', name: 't*|$' }], schemas: ['gone'] } },
    ),
  );
  expect(script).toContain('CREATE TABLE "od""d.*".tx');
  expect(script).toContain('CREATE TYPE gone.kept');
  expect(script).not.toContain('t*|$');
  expect(script).not.toContain('gone.a');
});

test('a refusal is reported with the text of pg_dump and the SQLSTATE', async () => {
  await using db = await createTestDatabase(17, 'CREATE TABLE public.secret (a int)');
  const role = `nobody_${db.name}`;
  db.dropRoleAfterwards(role);
  await db.session.query(`CREATE ROLE ${role} LOGIN PASSWORD '${db.endpoint.password}'`);
  await expect(dumpSchema(dumpOptions({ ...db.endpoint, user: role }))).rejects.toMatchObject({
    code: 'SCHEMA_DUMP_FAILED',
    message: expect.stringContaining('permission denied for table secret'),
    detail: { sqlstate: '42501' },
  });
});

test('names that the arguments have no room for are refused, not cut', async () => {
  await using db = await createTestDatabase(18);
  const relations = Array.from({ length: 2000 }, (_, at) => ({ schema: 'public', name: `t${at}` }));
  await expect(
    dumpSchema(dumpOptions(db.endpoint, { exclude: { relations, schemas: [] } })),
  ).rejects.toMatchObject({ code: 'SCHEMA_DUMP_FAILED' });
});

// libpq sends a query of more than 8 kB in pieces; the first version waited for an answer to the first.
test('a query that libpq sends in pieces is answered once', async () => {
  await using db = await createTestDatabase(
    18,
    `DO $$ BEGIN FOR i IN 1..1500 LOOP EXECUTE format('CREATE TABLE public.t%s ()', i); END LOOP; END $$`,
  );
  const script = await dumpSchema(dumpOptions(db.endpoint));
  expect(script.match(/^CREATE TABLE /gm)).toHaveLength(1500);
});

test('a dump that waits ends with its deadline', async () => {
  await using db = await createTestDatabase(18, 'CREATE TABLE public.t (a int)');
  await using _ = await lockTable(db);
  await expect(dumpSchema(dumpOptions(db.endpoint, { timeoutMs: 500 }))).rejects.toMatchObject({
    code: 'SCHEMA_DUMP_FAILED',
    message: expect.stringContaining('500 ms'),
  });
});

test('a dump that waits ends with an abort', async () => {
  await using db = await createTestDatabase(18, 'CREATE TABLE public.t (a int)');
  await using _ = await lockTable(db);
  const stop = new AbortController();
  const dumped = dumpSchema(dumpOptions(db.endpoint, { signal: stop.signal }));
  const stopLater = async () => {
    await dumpBackend(db);
    stop.abort(new Error('stopped'));
  };
  const stopped = stopLater();
  await expect(dumped).rejects.toThrow('stopped');
  await stopped;
});

test('a dump whose connection is lost ends', async () => {
  await using db = await createTestDatabase(18, 'CREATE TABLE public.t (a int)');
  await using _ = await lockTable(db);
  const dumped = dumpSchema(dumpOptions(db.endpoint));
  const killed = dumpBackend(db).then((pid) =>
    db.session.query('SELECT pg_terminate_backend($1::int)', [pid]),
  );
  await expect(dumped).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await killed;
});
