import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { NO_FAILPOINTS } from '#src/lib/failpoint.ts';
import {
  type CopyJob,
  keepers,
  KEEPER,
  runCopy,
  SHADOW_ID,
  startCopyProcess,
  tableDigest,
  takeSnapshot,
  waitUntil,
} from '#test/copy.ts';
import { casesOf } from '#test/full.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { holdGeneration } from './generations.ts';

const SCHEMA = `
  CREATE TABLE public.a (id bigint PRIMARY KEY, v varchar(5000));
  CREATE TABLE public.b (id bigint PRIMARY KEY, v text);`;
/** 21 and 7 parts of 64 KB. */
const ROWS = `
  INSERT INTO public.a SELECT i, repeat('a', 100) FROM generate_series(1, 10000) i;
  INSERT INTO public.b SELECT i, repeat('b', 100) FROM generate_series(1, 3000) i;`;

async function createPair(rows = ROWS) {
  const stack = new AsyncDisposableStack();
  const source = stack.use(await createTestDatabase(18, SCHEMA + rows));
  const target = stack.use(await createTestDatabase(18, SCHEMA));
  const job: CopyJob = {
    source: source.endpoint,
    target: target.endpoint,
    jobs: 2,
    partBytes: 64 * 1024,
  };
  return {
    source: source.session,
    target: target.session,
    job,
    [Symbol.asyncDispose]: async () => stack.disposeAsync(),
  };
}

async function expectEqual(source: Session, target: Session): Promise<void> {
  for (const table of ['public.a', 'public.b']) {
    expect(await tableDigest(target, table)).toBe(await tableDigest(source, table));
  }
}

async function copiedAt(target: Session): Promise<ReadonlyMap<string, string>> {
  const rows = await target.query(
    `SELECT source_oid || '/' || generation || '/' || part AS part, copied_at FROM understudy.part`,
  );
  return new Map(rows.map((row) => [row['part'] ?? '', row['copied_at'] ?? '']));
}

async function generations(target: Session): Promise<readonly string[]> {
  const rows = await target.query(
    'SELECT DISTINCT generation FROM understudy.relation ORDER BY generation',
  );
  return rows.map((row) => row['generation'] ?? '');
}

async function lockWaits(source: Session): Promise<number> {
  const [row] = await source.query(
    `SELECT count(*) AS n FROM pg_locks l JOIN pg_database d ON d.oid = l.database
      WHERE NOT l.granted AND d.datname = current_database()`,
  );
  return Number(row?.['n']);
}

test.each(['copy.afterSourceCopy:9', 'copy.beforePartCommit:5', 'copy.afterPartCommit:15'])(
  'killed at %s, the next run goes on from the same snapshot (pains 6 and 7)',
  async (failpoints) => {
    await using pair = await createPair();
    const { source, target, job } = pair;
    const killed = startCopyProcess({ ...job, failpoints });
    expect(await killed.exited).toEqual([null, 'SIGKILL']);
    expect(await keepers(source)).toBe(2);
    // Not in the snapshot: a run on another one would copy these.
    await source.query(`
    INSERT INTO public.a SELECT i, 'late' FROM generate_series(50001, 50100) i;
    UPDATE public.a SET v = 'late' WHERE id % 10 = 0; DELETE FROM public.b WHERE id % 7 = 0`);
    const before = await copiedAt(target);
    let snapshots = 0;
    await runCopy(job, { onSnapshot: () => void (snapshots += 1) });
    expect(snapshots).toBe(0);
    const after = await copiedAt(target);
    for (const [part, time] of before) expect(after.get(part)).toBe(time);
    const [row] = await target.query(`
    SELECT (SELECT count(*) || '/' || count(DISTINCT id) || '/' || sum(length(v)) FROM public.a) AS a,
           (SELECT count(*) || '/' || count(DISTINCT id) || '/' || sum(length(v)) FROM public.b) AS b`);
    expect(row).toEqual({ a: '10000/10000/1000000', b: '3000/3000/300000' });
    expect(await generations(target)).toEqual(['1']);
    await waitUntil(async () => (await keepers(source)) === 0);
  },
);

test('with the keepers gone too, unfinished tables start again from a new snapshot (trap 1)', async () => {
  await using pair = await createPair();
  const { source, target, job } = pair;
  // The parts of a are larger: it goes first, b is not finished either.
  const killed = startCopyProcess({ ...job, failpoints: 'copy.afterPartCommit:10' });
  await killed.exited;
  await source.query(
    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()',
    [KEEPER],
  );
  await waitUntil(async () => (await keepers(source)) === 0);
  // Rows that move from an unfinished part to a finished one, or back.
  await source.query(`
    UPDATE public.a SET v = 'moved' WHERE id > 8000; DELETE FROM public.a WHERE id < 1000;
    INSERT INTO public.a SELECT i, 'back' FROM generate_series(30001, 31000) i`);
  let snapshots = 0;
  await runCopy(job, { onSnapshot: () => void (snapshots += 1) });
  expect(snapshots).toBe(1);
  await expectEqual(source, target);
  expect(await generations(target)).toEqual(['2']);
  const [row] = await target.query(
    `SELECT count(*) AS stale FROM understudy.part p JOIN understudy.relation r USING (source_oid)
      WHERE p.generation <> r.generation`,
  );
  expect(row).toEqual({ stale: '0' });
});

test('a finished table is not copied again when the keepers are gone', async () => {
  await using pair = await createPair();
  const { source, target, job } = pair;
  await runCopy(job);
  await source.query(`UPDATE public.a SET v = 'later'`);
  let snapshots = 0;
  await runCopy(job, { onSnapshot: () => void (snapshots += 1) });
  expect(snapshots).toBe(0);
  const [row] = await target.query(`SELECT count(*) AS n FROM public.a WHERE v = 'later'`);
  expect(row).toEqual({ n: '0' });
});

const REWRITES = casesOf(
  ['VACUUM FULL', 'VACUUM FULL public.a'],
  ['CLUSTER', 'CLUSTER public.a USING a_pkey'],
  ['TRUNCATE', `TRUNCATE public.a; INSERT INTO public.a VALUES (1, 'new')`],
  ['a rewriting ALTER', `ALTER TABLE public.a ALTER v TYPE varchar(5000) USING v || ''`],
);
test.each(REWRITES)(
  '%s between two parts is noticed and the table starts again (trap 2)',
  async (_name, sql) => {
    await using pair = await createPair();
    const { source, target, job } = pair;
    await startCopyProcess({ ...job, failpoints: 'copy.afterPartCommit:8' }).exited;
    // Without the check the rest would be read by ctid from a file in which every row has moved.
    await source.query('DELETE FROM public.a WHERE id % 2 = 0');
    await source.query(sql);
    const states: string[] = [];
    await runCopy(job, {
      report: (event) => {
        if (event.type === 'tableProgress') states.push(`${event.table.name} ${event.state}`);
      },
    });
    expect(states).toContain('a restarted');
    expect(states).not.toContain('b restarted');
    await expectEqual(source, target);
    expect(await generations(target)).toEqual(['1', '2']);
    const [row] = await target.query(
      `SELECT r.start_lsn = s.lsn AS is_bound FROM understudy.relation r
       JOIN understudy.snapshot s USING (shadow_id, generation) WHERE r.table_name = 'a'`,
    );
    expect(row).toEqual({ is_bound: 't' });
  },
);

test.each([
  ['its snapshot is lost', true],
  ['a table was rewritten', false],
])('a copy that is not followed stays one snapshot when %s', async (_name, isSnapshotLost) => {
  await using pair = await createPair(`
    INSERT INTO public.a SELECT i, repeat('a', 100) FROM generate_series(1, 10000) i;
    INSERT INTO public.b SELECT i, repeat('b', 100) FROM generate_series(1, 6000) i;`);
  const { source, target } = pair;
  // b is one part, larger than the two of a: it is finished when the first of those is.
  const job = { ...pair.job, jobs: 1, partBytes: 1024 * 1024, isFollowed: false };
  await startCopyProcess({ ...job, failpoints: 'copy.afterPartCommit:2' }).exited;
  const [before] = await target.query(
    `SELECT string_agg(state, ' ' ORDER BY table_name) AS states FROM understudy.relation`,
  );
  expect(before).toEqual({ states: 'copying copied' });
  await source.query(`UPDATE public.a SET v = 'new'; UPDATE public.b SET v = 'new'`);
  await source.query(
    isSnapshotLost
      ? `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = '${KEEPER}' AND datname = current_database()`
      : 'VACUUM FULL public.a',
  );
  if (isSnapshotLost) await waitUntil(async () => (await keepers(source)) === 0);
  await runCopy(job);
  await expectEqual(source, target);
  expect(await generations(target)).toEqual(['2']);
  await waitUntil(async () => (await keepers(source)) === 0);
});

test.each([
  ['names that were swapped', 'ALTER TABLE public.a RENAME TO c; ALTER TABLE public.b RENAME TO a'],
  ['a renamed column', 'ALTER TABLE public.a RENAME COLUMN v TO w'],
  ['a dropped table', 'DROP TABLE public.a'],
  ['a column that came before the snapshot', 'ALTER TABLE public.a ADD c text'],
  ['a column of another type', 'ALTER TABLE public.a ALTER v TYPE text'],
  ['a column that is longer', 'ALTER TABLE public.a ALTER v TYPE varchar(6000)'],
])('%s stops the copy', async (_name, sql) => {
  await using pair = await createPair();
  const { source, job } = pair;
  const tables = await readTables(source, EVERYTHING);
  await source.query(sql);
  await expect(runCopy({ ...job, tables })).rejects.toMatchObject({ code: 'TABLE_CHANGED' });
});

test('writes during the copy are not in it', async () => {
  await using pair = await createPair();
  const { source, target, job } = pair;
  const digest = await tableDigest(source, 'public.a');
  const writes: Promise<unknown>[] = [];
  await runCopy(job, {
    report: (event) => {
      if (event.type !== 'copyProgress' || event.tables === 0) return;
      writes.push(source.query(`UPDATE public.a SET v = 'during' WHERE id % 3 = 0`));
    },
  });
  await Promise.all(writes);
  expect(await tableDigest(target, 'public.a')).toBe(digest);
  expect(await tableDigest(source, 'public.a')).not.toBe(digest);
});

test('a snapshot that this process holds already is the one that is copied', async () => {
  await using pair = await createPair();
  const { source, target, job } = pair;
  await target.query(LEDGER_SCHEMA);
  const digest = await tableDigest(source, 'public.a');
  const held = await holdGeneration(
    { source: job.source, target, shadowId: SHADOW_ID, failpoints: NO_FAILPOINTS },
    await takeSnapshot(job.source),
  );
  await source.query('DELETE FROM public.a');
  let snapshots = 0;
  await runCopy(job, { held: [held], onSnapshot: () => void (snapshots += 1) });
  expect(snapshots).toBe(0);
  expect(await tableDigest(target, 'public.a')).toBe(digest);
  await held.lost;
});

test('a row that the target refuses ends the copy with its SQLSTATE and no value (I14)', async () => {
  await using pair = await createPair();
  const { target, job } = pair;
  await target.query(`ALTER TABLE public.a ADD CHECK (id <> 9000)`);
  const failure = await runCopy(job).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'STATEMENT_FAILED', detail: { sqlstate: '23514' } });
  expect(JSON.stringify(failure) + String(failure)).not.toContain('aaaa');
  await target.query(`ALTER TABLE public.a DROP CONSTRAINT a_id_check`);
  await runCopy(job);
  const [row] = await target.query('SELECT count(*) AS n FROM public.a');
  expect(row).toEqual({ n: '10000' });
});

test('an abort ends the copy at once, also while the source waits for a lock, and loses nothing', async () => {
  await using pair = await createPair();
  const { source, target, job } = pair;
  const abort = new AbortController();
  const copying = runCopy(job, {
    signal: abort.signal,
    onSnapshot: async () => source.query('BEGIN; LOCK TABLE public.b IN ACCESS EXCLUSIVE MODE'),
  }).catch((error: unknown) => error);
  await waitUntil(async () => (await lockWaits(source)) > 0);
  abort.abort(new Error('enough'));
  expect(await copying).toMatchObject({ message: 'enough' });
  await waitUntil(async () => (await lockWaits(source)) === 0);
  await source.query('COMMIT');
  await runCopy(job);
  await expectEqual(source, target);
});
