import type { Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn, lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { quoteTable } from '#src/core/table.ts';
import { ApplySession } from '#src/db/postgres/apply/apply-session.ts';
import { readTargetColumns, tableKey } from '#src/db/postgres/apply/target-columns.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { ErrorCode, OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { orAborted } from '#src/lib/or-aborted.ts';
import { supervise } from '#src/lib/supervise.ts';
import { DDL_PREFIX } from '#src/shadow/ddl/capture-sql.ts';
import { readLatestVersions } from '#src/shadow/ddl/version-ledger.ts';
import {
  decided,
  isTransient,
  LeftInDoubt,
  type Memory,
  repeatAttempts,
} from '#src/shadow/follow/apply/apply-attempts.ts';
import { tableStop } from '#src/shadow/follow/apply/apply-changes.ts';
import { openApplyConnection } from '#src/shadow/follow/apply/apply-connection.ts';
import { ApplyGate } from '#src/shadow/follow/apply/apply-gate.ts';
import { ApplyLoop } from '#src/shadow/follow/apply/apply-loop.ts';
import { laneDdlHandler } from '#src/shadow/follow/apply/ddl-messages.ts';
import { handOver, stopRelation, type Writer } from '#src/shadow/follow/table-states.ts';
import type { LagMeter } from '#src/shadow/follow/watch/monitor.ts';
import { type RelationRecord, readRelationRecords, type ShadowRecord } from '#src/shadow/ledger.ts';
import { readChunking } from '#src/shadow/verify/chunking.ts';
import type { Spool } from '#src/stream/spool/spool.ts';

import { LaneTable } from './lane-table.ts';

/**
 * A lane brings one table back to the others (ADR 0009): a second apply loop, on a connection of its own,
 * over a reader of its own, which takes the changes of this table only and keeps its progress in the
 * table's row of the ledger.
 *
 *     main    ───────────────────────── held at P ── reads its tables ──►
 *     lane    stop_lsn ──► near ──► near ──► P ── hand-over (one transaction)
 *
 * What commits before P the lane has applied, what commits from P on the main loop will: nothing twice and
 * nothing not at all (I3).
 */
export type LaneDeps = {
  readonly target: Endpoint;
  readonly shadow: ShadowRecord;
  readonly epoch: bigint;
  readonly spool: Spool;
  /** Of the main loop. */
  readonly gate: ApplyGate;
  readonly meter: LagMeter;
  readonly clock: Clock;
  readonly log: Logger;
  readonly report: Report;
  readonly failpoints: Failpoints;
};

/** A lane that comes this quickly to where the main loop was a moment ago holds that up no longer. */
const NEAR_MS = 1_000;
/** A lane that does not gain on the main loop any more holds it up for about its last round. */
const ROUNDS_MIN = 5;
const GAIN_MIN = 0.8;
/** The main loop is held no longer than this, such as by a lock that somebody has on the lane's table. */
const HAND_OVER_MS = 10_000;

/** Bring the table back, or stop it again where it cannot go on. Throws what has nothing to do with it. */
export async function runLane(
  deps: LaneDeps,
  sourceOid: number,
  signal: AbortSignal,
): Promise<void> {
  await repeatAttempts(
    deps,
    {
      attempt: async (memory) => {
        await attempt(deps, sourceOid, memory, signal);
        return 'done';
      },
      mend: async (error) => ((await stopAgain(deps, sourceOid, error)) ? 'done' : undefined),
    },
    signal,
  );
}

async function attempt(
  deps: LaneDeps,
  sourceOid: number,
  memory: Memory,
  signal: AbortSignal,
): Promise<void> {
  const { shadow, clock, failpoints } = deps;
  await using target = await openLedgerSession(deps);
  const record = await readLane(target, shadow.shadowId, sourceOid);
  if (record === undefined) return;
  const applied = record.appliedLsn ?? lsn(0n);
  await using applying = await openApplyConnection(deps, signal);
  const table = await readTable(deps, target, record);
  await using reader = deps.spool.reader(applied);
  const gate = new ApplyGate();
  const loop = new ApplyLoop(
    {
      shadowId: shadow.shadowId,
      session: new ApplySession({
        connection: applying.connection,
        shadowId: shadow.shadowId,
        epoch: deps.epoch,
        progress: { kind: 'relation', sourceOid },
        applied,
        failpoints,
      }),
      reader,
      tables: table,
      // What else they ask for has been done by the main loop.
      messages: new Map([[DDL_PREFIX, laneDdlHandler(shadow.shadowId)]]),
      gate,
      clock,
      failpoints: laneFailpoints(failpoints),
      settleBefore: memory.settleBefore,
      onApplied: () => undefined,
    },
    applied,
  );
  memory.runningAtMs = clock.now();
  memory.begunLsn = () => loop.begunLsn;
  failpoints.hit('lane.afterStart');
  // Never ahead of the main loop, which would apply again what is in between.
  gate.close({ kind: 'until', lsn: deps.meter.appliedLsn }).catch(() => undefined);
  let doubt: LeftInDoubt | undefined;
  await supervise(
    [
      async (end) => loop.run(end),
      async (end) => {
        try {
          do await comeNear(deps, gate, end);
          while (!(await handOverAt(deps, { target, record, table, gate }, end)));
        } catch (error) {
          if (error instanceof LeftInDoubt) doubt = error;
          // Not the loop's, which stands: no transaction is to be settled before, and it would be another each time.
          if (!end.aborted) memory.begunLsn = () => undefined;
          throw error;
        }
      },
    ],
    signal,
  ).catch((error: unknown) => {
    // Also when the loop had failed before, as both do that lose their server.
    throw doubt ?? error;
  });
}

async function readTable(
  { shadow }: LaneDeps,
  target: Session,
  record: RelationRecord,
): Promise<LaneTable> {
  const columns = await readTargetColumns(target, [record]);
  const chunkings = await readChunking(target, shadow.shadowId);
  return new LaneTable({
    record,
    targetColumns: columns.get(tableKey(record)) ?? new Map(),
    chunking: chunkings.get(record.sourceOid),
    format: shadow.streamFormat,
  });
}

/** Follow the main loop's position until there is hardly anything in between. */
async function comeNear(deps: LaneDeps, gate: ApplyGate, signal: AbortSignal): Promise<void> {
  const { meter, clock } = deps;
  let lastMs = Number.POSITIVE_INFINITY;
  for (let round = 0; ; round++) {
    const beganMs = clock.now();
    await orAborted(gate.close({ kind: 'until', lsn: meter.appliedLsn }), signal);
    const tookMs = clock.now() - beganMs;
    if (tookMs < NEAR_MS || (round >= ROUNDS_MIN && tookMs > GAIN_MIN * lastMs)) return;
    lastMs = tookMs;
  }
}

type Lane = {
  readonly target: Session;
  readonly record: RelationRecord;
  readonly table: LaneTable;
  readonly gate: ApplyGate;
};

/** False when the lane did not get there in time: nobody else waits for it any longer. */
async function handOverAt(deps: LaneDeps, lane: Lane, signal: AbortSignal): Promise<boolean> {
  const { shadow, epoch, failpoints } = deps;
  const { target, record, table } = lane;
  const turn = await deps.gate.claim(signal);
  let at: Lsn;
  let isInDoubt = false;
  try {
    at = await orAborted(deps.gate.close({ kind: 'now' }), signal);
    const reached = orAborted(lane.gate.close({ kind: 'until', lsn: at }), signal);
    if (!(await isWithin(deps, reached, HAND_OVER_MS))) return false;
    // The main loop stands, so every version up to there is on record.
    const version = (await readLatestVersions(target, shadow.shadowId)).get(record.sourceOid);
    const isOfNow = version !== undefined && version.lsn >= beganAt(record);
    const latest = isOfNow ? version.shape : undefined;
    table.requireShape(latest);
    failpoints.hit('lane.beforeHandOver');
    const writer: Writer = { target, shadowId: shadow.shadowId, epoch };
    const isDone = await decided(handOver(writer, { ...record, ...table.shapeAt(latest) }, at));
    if (!isDone) return true;
    deps.gate.handedOver();
    failpoints.hit('lane.afterHandOver');
  } catch (error) {
    isInDoubt = error instanceof LeftInDoubt;
    throw error;
  } finally {
    // Else the main loop must not pass it, nor may anybody let it whose turn is next.
    if (!isInDoubt) {
      deps.gate.open();
      turn[Symbol.dispose]();
    }
  }
  deps.report({
    type: 'notice',
    level: 'info',
    message: `table ${quoteTable(record)} follows again from ${formatLsn(at)}`,
  });
  return true;
}

/** Versions from before say nothing of the table that is brought back. */
function beganAt({ startLsn, stop }: RelationRecord): Lsn {
  const [start, stopped] = [startLsn ?? lsn(0n), stop?.lsn ?? lsn(0n)];
  return lsn(start > stopped ? start : stopped);
}

/** Whether it happens in time. */
async function isWithin({ clock }: LaneDeps, fact: Promise<unknown>, ms: number): Promise<boolean> {
  const over = new AbortController();
  const late = clock.sleep(ms, over.signal).then(() => false);
  late.catch(() => undefined);
  try {
    return await Promise.race([fact.then(() => true), late]);
  } finally {
    over.abort();
  }
}

/** Failures of the shadow as a whole. Whatever else fails in a lane must not stop the other tables. */
const NOT_OF_A_TABLE: ReadonlySet<ErrorCode> = new Set([
  'LEASE_LOST',
  'CONNECTION_LOST',
  'CONNECTION_FAILED',
  'AUTHENTICATION_FAILED',
  'DATABASE_MISSING',
  'SPOOL_CORRUPT',
  'SPOOL_UNUSABLE',
]);

/** Where the lane is, the table cannot go on: it stops once more. False when the error is not about it. */
async function stopAgain(
  deps: LaneDeps,
  sourceOid: number,
  error: OperatorError,
): Promise<boolean> {
  const isSpoolGone = error.code === 'SPOOL_MISSING';
  if (isTransient(error) || NOT_OF_A_TABLE.has(error.code)) return false;
  const { shadow, failpoints } = deps;
  await using target = await openLedgerSession(deps);
  const record = await readLane(target, shadow.shadowId, sourceOid);
  if (record === undefined) return true;
  failpoints.hit('lane.beforeStop');
  const stop = tableStop(error, record.appliedLsn ?? lsn(0n));
  await decided(
    stopRelation(
      { target, shadowId: shadow.shadowId, epoch: deps.epoch },
      sourceOid,
      isSpoolGone ? { ...stop, waitsFor: 'reseed' } : stop,
    ),
  );
  failpoints.hit('lane.afterStop');
  deps.log.error({ code: error.code, relation: sourceOid }, 'a table has stopped again');
  deps.report({
    type: 'notice',
    level: 'warn',
    message: `${error.message}; the table has stopped again, the others go on`,
  });
  return true;
}

async function openLedgerSession({ target, shadow }: LaneDeps): Promise<Session> {
  return openSession(target, {
    applicationName: `understudy ${shadow.shadowId} lane`,
    answerMsMax: ANSWER_MS_MAX,
  });
}

/** The table as it is on record, if a lane is to apply its changes. */
async function readLane(
  target: Session,
  shadowId: string,
  sourceOid: number,
): Promise<RelationRecord | undefined> {
  const records = await readRelationRecords(target, shadowId);
  return records.find((one) => one.sourceOid === sourceOid && one.state === 'catching up');
}

/** The same effects as in the main loop, at another table's pace. */
function laneFailpoints(failpoints: Failpoints): Failpoints {
  return {
    hit: (name) => {
      if (name === 'apply.beforeBatch') failpoints.hit('lane.beforeBatch');
      else if (name === 'apply.afterBatch') failpoints.hit('lane.afterBatch');
      else if (name === 'apply.beforeCommit') failpoints.hit('lane.beforeCommit');
      else if (name === 'apply.afterCommit') failpoints.hit('lane.afterCommit');
    },
  };
}
