import type { Part } from '#src/core/copy-plan.ts';
/**
 * The bulk copy: N workers over a queue of parts, all on one exported snapshot, each part recorded in the
 * target's transaction that holds its rows. Run again after any crash, it copies what the ledger lacks:
 *
 *   the keepers live          missing parts, from the same snapshot
 *   the keepers are gone      unfinished *tables*, emptied, from a new snapshot (trap 1)
 *   a table was rewritten     that table, emptied, from a new snapshot (trap 2)
 *
 * The last two need a change stream, which brings each table from its own snapshot to one common position.
 * Without one, every table starts again, so that all are of one snapshot.
 */
import { createCopyQueue, type Landing } from '#src/core/copy-queue.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import type { Table } from '#src/core/table.ts';
import { assert } from '#src/lib/assert.ts';
import type { Clock } from '#src/lib/clock.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';

import { recordCopied } from './copy-ledger.ts';
import { createCopyProgress } from './copy-progress.ts';
import { beginTables, restartTable, type TableRun } from './copy-tables.ts';
import { type CopyWorker, createCopyWorker } from './copy-worker.ts';
import type { HeldSnapshot, TakenSnapshot } from './generations.ts';
import { openLedger } from './ledger-session.ts';
import { createLiveGenerations } from './live-generations.ts';

export type CopyOptions = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly shadowId: string;
  readonly tables: readonly Table[];
  /** Whether changes since each table's `start_lsn` will be applied; else all tables share one snapshot. */
  readonly isFollowed: boolean;
  /**
   * Whether the tables were put into the publication while the stream ran. A snapshot that an earlier attempt
   * took may be older than that, and what was written in between is in neither; so it is of use only to
   * tables that are bound to it.
   */
  readonly isInLane?: boolean;
  /** Connections to each side that copy at the same time. */
  readonly jobs: number;
  /** Made by this process (`holdGeneration`). What earlier runs left is adopted without being named. */
  readonly held: readonly HeldSnapshot[];
  /** A new snapshot, for tables that must start again. Its LSN may not be before the slot's. */
  readonly takeSnapshot: () => Promise<TakenSnapshot>;
  readonly report: Report;
  readonly failpoints: Failpoints;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** Source bytes per part instead of the choice of core/copy-plan.ts. */
  readonly partBytes?: number;
  /** How long snapshots outlive this process, for the next run. */
  readonly graceMs?: number;
};

export type CopyResult = { readonly rows: number; readonly bytes: number };

/** A table that production rewrites all the time cannot be copied. */
const RESTARTS_MAX = 10;
/** After these the table starts again from a newer snapshot. */
const VOIDING_CODES: ReadonlySet<ErrorCode> = new Set(['TABLE_REWRITTEN', 'SNAPSHOT_LOST']);

/**
 * Copy what is not copied yet; returns what the tables hold in all. The shadow's snapshots are given up at
 * the end, and left to the next run on failure or abort.
 *
 * Throws TABLE_REWRITTEN or SNAPSHOT_LOST when it happens too often, TABLE_CHANGED, COPY_MISMATCH,
 * LEASE_LOST, CONNECTION_LOST, what servers answer, and `signal.reason`.
 */
export async function copyTables(options: CopyOptions): Promise<CopyResult> {
  let run = { ...options, mustStartOver: false };
  for (let startsOver = 0; ; startsOver += 1) {
    try {
      return await copyOnce(run);
    } catch (error) {
      if (options.isFollowed || !isVoiding(error) || startsOver >= RESTARTS_MAX) throw error;
      options.log.warn({ code: error.code }, 'every table starts again, to be of one snapshot');
      run = { ...options, held: [], mustStartOver: true };
    }
  }
}

async function copyOnce(
  options: CopyOptions & { readonly mustStartOver: boolean },
): Promise<CopyResult> {
  const failure = new AbortController();
  const signal = AbortSignal.any([options.signal, failure.signal]);
  await using ledger = openLedger({ ...options, signal });
  const generations = createLiveGenerations({ ...options, onLedger: ledger.run });
  try {
    const run = await startRun({ ...options, signal }, ledger.run, generations);
    const workers = Array.from({ length: options.jobs }, async () => {
      try {
        await work(run);
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    });
    await Promise.allSettled(workers);
    signal.throwIfAborted();
    run.failpoints.hit('copy.beforeEnd');
    await generations.endAll();
    run.failpoints.hit('copy.afterEnd');
    run.progress.flush();
    return run.progress.totals();
  } catch (error) {
    generations.leave();
    throw error;
  }
}

function isVoiding(error: unknown): error is OperatorError {
  return error instanceof OperatorError && VOIDING_CODES.has(error.code);
}

type Run = Awaited<ReturnType<typeof startRun>>;

async function startRun(
  options: CopyOptions & { readonly mustStartOver: boolean },
  onLedger: ReturnType<typeof openLedger>['run'],
  generations: ReturnType<typeof createLiveGenerations>,
) {
  const progress = createCopyProgress(options);
  const queue = createCopyQueue<TableRun>();
  const deps = { ...options, onLedger, generations, progress };
  const unfinished = new Set<TableRun>();
  for (const begun of await beginTables(deps)) {
    unfinished.add(begun.run);
    queue.add(begun.run, begun.parts);
  }
  let changed = Promise.withResolvers<void>();
  const notify = (): void => {
    changed.resolve();
    changed = Promise.withResolvers<void>();
  };
  options.signal.addEventListener('abort', notify, { once: true });
  return {
    ...deps,
    queue,
    unfinished,
    notify,
    /** Resolves when another worker has changed the queue. */
    nextChange: async () => changed.promise,
  };
}

async function work(run: Run): Promise<void> {
  await using worker = createCopyWorker(run);
  // A table leaves `unfinished` last of all, after its restart if it has one.
  while (run.unfinished.size > 0) {
    run.signal.throwIfAborted();
    const next = run.queue.take();
    if (next === undefined) {
      await run.nextChange();
      continue;
    }
    const landing = await copyOne(run, worker, next.table, next.part);
    if (landing === 'tableFinished') await finishTable(run, next.table);
    if (landing === 'restartDue') run.queue.add(next.table, await restartTable(run, next.table));
    run.notify();
  }
}

async function copyOne(
  run: Run,
  worker: CopyWorker,
  tableRun: TableRun,
  part: Part,
): Promise<Landing> {
  const { table, held } = tableRun;
  const { shadowId, failpoints } = run;
  try {
    await worker.copy({ shadowId, failpoints, table, part, held }, () =>
      run.progress.part(table, part.sourceBytes),
    );
    return run.queue.finish(tableRun);
  } catch (error) {
    if (!run.isFollowed || !isVoiding(error)) throw error;
    run.log.warn({ code: error.code, table: table.name, part: part.number }, 'table is void');
    const landing = run.queue.voidTable(tableRun);
    if (landing === 'restartDue' && tableRun.restarts >= RESTARTS_MAX) throw error;
    return landing;
  }
}

async function finishTable(run: Run, tableRun: TableRun): Promise<void> {
  const { table, held } = tableRun;
  run.failpoints.hit('copy.beforeFinish');
  await run.onLedger(async (target) => recordCopied(target, run.shadowId, table, held.generation));
  run.failpoints.hit('copy.afterFinish');
  assert(run.unfinished.delete(tableRun), 'a table finishes once');
  run.progress.finish(table);
  // Older snapshots only: a table that starts again may have taken a newer one a moment ago.
  const oldest = Math.min(...[...run.unfinished].map((one) => one.held.generation));
  await run.generations.keepOnly((generation) => generation >= oldest);
}
