import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import type { Endpoint } from '#src/core/endpoint.ts';
import { lsn, parseLsn } from '#src/core/lsn.ts';
import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import type { Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { type CopyResult, copyTables } from '#src/shadow/copy/copy.ts';
import type { HeldSnapshot, TakenSnapshot } from '#src/shadow/copy/generations.ts';

import { recordError, recordingLogger, recordLine } from './output.ts';

export const SHADOW_ID = 'c0ffee01';
export const KEEPER = `understudy ${SHADOW_ID} keeper`;

/** Everything that a copy needs and a test sets; plain data, since it crosses processes. */
export type CopyJob = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  /** Every table, when undefined. */
  readonly tables?: readonly Table[];
  /** True, when undefined. */
  readonly isFollowed?: boolean;
  readonly jobs?: number;
  readonly partBytes?: number;
  readonly failpoints?: string;
  readonly graceMs?: number;
};

/** A snapshot as a slot's creation would export it, without a slot. */
export async function takeSnapshot(source: Endpoint): Promise<TakenSnapshot> {
  const session = await openSession(source, { applicationName: 'understudy test snapshot' });
  await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  const [row] = await session.query(
    'SELECT pg_export_snapshot() AS id, pg_current_wal_insert_lsn() AS lsn',
  );
  return {
    snapshotName: row?.['id'] ?? '',
    lsn: parseLsn(row?.['lsn'] ?? '') ?? lsn(0n),
    release: async () => session[Symbol.asyncDispose](),
  };
}

/** Copy every table of the source's database, whose definitions the target has already. */
export async function runCopy(
  job: CopyJob,
  hooks: {
    readonly held?: readonly HeldSnapshot[];
    readonly report?: (event: ProgressEvent) => void;
    readonly signal?: AbortSignal;
    readonly onSnapshot?: () => unknown;
  } = {},
): Promise<CopyResult> {
  await using source = await openSession(job.source, { applicationName: 'understudy test' });
  await using target = await openSession(job.target, { applicationName: 'understudy test' });
  await target.query(LEDGER_SCHEMA);
  return await copyTables({
    source: job.source,
    target: job.target,
    shadowId: SHADOW_ID,
    tables: job.tables ?? (await readTables(source, EVERYTHING)),
    isFollowed: job.isFollowed ?? true,
    jobs: job.jobs ?? 2,
    held: hooks.held ?? [],
    takeSnapshot: async () => {
      await hooks.onSnapshot?.();
      return takeSnapshot(job.source);
    },
    report: (event) => {
      recordLine('events', event);
      hooks.report?.(event);
    },
    failpoints: createFailpoints(job.failpoints),
    clock: systemClock,
    log: recordingLogger(),
    signal: hooks.signal ?? new AbortController().signal,
    ...(job.partBytes === undefined ? {} : { partBytes: job.partBytes }),
    graceMs: job.graceMs ?? 30_000,
  }).catch((error: unknown) => {
    recordError(error);
    throw error;
  });
}

/** The same in a process that may be killed. */
export function startCopyProcess(job: CopyJob): {
  readonly process: ChildProcess;
  readonly exited: Promise<unknown[]>;
} {
  const entry = fileURLToPath(new URL('./copy-process.ts', import.meta.url));
  const child = spawn(process.execPath, [entry], { stdio: ['pipe', 'inherit', 'inherit'] });
  child.stdin.end(JSON.stringify(job));
  return { process: child, exited: once(child, 'exit') };
}

/** Text of every row, hashed; equal on both sides exactly when the rows are. */
export async function tableDigest(session: Session, table: string): Promise<string> {
  const [row] = await session.query(
    `SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C")), '')
              AS digest
       FROM ${table} t`,
  );
  return row?.['digest'] ?? 'no digest';
}

/** The keepers' connections to the session's database. */
export async function keepers(source: Session): Promise<number> {
  const [row] = await source.query(
    `SELECT count(*) AS n FROM pg_stat_activity
      WHERE application_name = $1 AND datname = current_database()`,
    [KEEPER],
  );
  return Number(row?.['n']);
}

export async function waitUntil(fact: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await fact())) {
    if (Date.now() > deadline) throw new Error('the fact did not come true in time');
    await wait(20);
  }
}
