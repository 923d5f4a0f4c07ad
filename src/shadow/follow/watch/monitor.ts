import { stepLateness } from '#src/core/lateness.ts';
import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { readLsn, readSlot, type SlotState } from '#src/db/postgres/replication/slot.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { supervise } from '#src/lib/supervise.ts';
import type { Applied } from '#src/shadow/follow/apply/apply-group.ts';
import { earlier, keepForStopped, type SpoolFloor } from '#src/shadow/follow/lane/spool-floor.ts';
import type { Receiver } from '#src/shadow/follow/receiver.ts';
import type { Spool } from '#src/stream/spool/spool.ts';

import { sendHeartbeat } from './heartbeat.ts';
import type { PublicationWatch } from './publication-watch.ts';

/**
 * Watches a shadow that is being spooled, once a second: the lag ladder, the source's WAL against its
 * budget (trap 8), the identity of slot and publication (trap 14). It also sends heartbeats, and trims
 * the spool once the target has flushed what it applied (trap 16).
 */
export type MonitorDeps = {
  readonly shadow: {
    readonly shadowId: string;
    readonly slotName: string;
    readonly sourceWalBytesMax: number;
    readonly maxLagMs: number;
    readonly stoppedSpoolBytesMax: number;
  };
  /** Sessions of its own; a commit of the target's is on disk when it returns. */
  readonly source: Session;
  readonly target: Session;
  readonly publication: PublicationWatch;
  readonly receiver: Receiver;
  readonly spool: Spool;
  readonly meter: LagMeter;
  readonly floor: SpoolFloor;
  readonly clock: Clock;
  readonly log: Logger;
  readonly report: Report;
  readonly failpoints: Failpoints;
};

const TICK_MS = 1_000;
const HEARTBEAT_MS = 5_000;
/** The rate of WAL retention is averaged over about this long. */
const RATE_SECONDS = 30;

/** What has been applied, as the apply loop tells it. */
export class LagMeter {
  appliedLsn: Lsn;
  transactions = 0;
  rows = 0;
  /** Age of the newest applied heartbeat when it was applied; both times are our clock's. */
  lagMs = 0;
  /** Bytes a second by which the WAL retained on the source grows; below 0 when it shrinks. */
  sourceWalRate = 0;
  #sourceWal: { readonly bytes: number; readonly atMs: number } | undefined;
  #heartbeatMs = 0;
  #applyingSinceMs: number | undefined;

  constructor(applied: Lsn) {
    this.appliedLsn = applied;
  }

  /** The apply loop runs, and no heartbeat that was sent from now on has been applied. */
  applying(nowMs: number): void {
    this.#applyingSinceMs ??= nowMs;
  }

  applied(applied: Applied, nowMs: number): void {
    this.appliedLsn = applied.endLsn;
    this.transactions += applied.transactions;
    this.rows += applied.rows;
    if (applied.heartbeatMs === undefined) return;
    this.#heartbeatMs = applied.heartbeatMs;
    this.lagMs = Math.max(0, nowMs - applied.heartbeatMs);
  }

  /** WAL that the slot retains, as of now. */
  sourceWal(bytes: number, nowMs: number): void {
    const last = this.#sourceWal;
    this.#sourceWal = { bytes, atMs: nowMs };
    if (last === undefined || nowMs <= last.atMs) return;
    const seconds = (nowMs - last.atMs) / 1000;
    const weight = 1 - Math.exp(-seconds / RATE_SECONDS);
    this.sourceWalRate += weight * ((bytes - last.bytes) / seconds - this.sourceWalRate);
  }

  /** The lag as of now: it grows while an older heartbeat than expected is the newest applied one. */
  lagMsAt(nowMs: number): number {
    const sinceMs = this.#heartbeatMs === 0 ? this.#applyingSinceMs : this.#heartbeatMs;
    if (sinceMs === undefined) return 0;
    return Math.max(this.lagMs, nowMs - sinceMs - HEARTBEAT_MS - TICK_MS);
  }

  /** Before the first heartbeat of this run is applied, the lag is at least what `lagMsAt` says. */
  get isLagExact(): boolean {
    return this.#heartbeatMs !== 0;
  }
}

/**
 * Watch until aborted, or until the shadow cannot go on. The two sides by themselves: a target that does
 * not answer must not take the watch off the source.
 */
export async function monitor(deps: MonitorDeps, signal: AbortSignal): Promise<void> {
  const seen: Seen = { source: undefined };
  await supervise(
    [async (end) => watchSource(deps, seen, end), async (end) => watchTarget(deps, seen, end)],
    signal,
  );
}

/** Where the source stood when it was last asked. */
type Seen = {
  source: { readonly head: Lsn; readonly sent: Lsn; readonly retainedBytes: number } | undefined;
};

async function watchSource(deps: MonitorDeps, seen: Seen, signal: AbortSignal): Promise<void> {
  const { clock, source, publication, receiver, meter, shadow } = deps;
  let heartbeatMs = 0;
  for (;;) {
    const now = clock.now();
    if (now - heartbeatMs >= HEARTBEAT_MS) {
      await sendHeartbeat(source, shadow.shadowId, now);
      deps.failpoints.hit('monitor.afterHeartbeat');
      heartbeatMs = now;
    }
    await publication.check(source);
    const slot = await readOwnSlot(source, shadow);
    const [position] = await source.query(
      `SELECT pg_catalog.pg_current_wal_lsn() AS head,
              (SELECT sent_lsn FROM pg_catalog.pg_stat_replication WHERE pid = $1) AS sent`,
      [slot.activePid ?? null],
    );
    const head = readLsn(position?.['head'], 'pg_current_wal_lsn');
    const sent = parseLsn(position?.['sent'] ?? '') ?? receiver.receivedLsn;
    receiver.setHead(head);
    meter.sourceWal(slot.retainedBytes, clock.now());
    seen.source = { head, sent, retainedBytes: slot.retainedBytes };
    await clock.sleep(TICK_MS, signal);
  }
}

/** Throws SLOT_LOST, or WAL_BUDGET_EXCEEDED: the slot is dropped once nobody reads it any more. */
async function readOwnSlot(source: Session, shadow: MonitorDeps['shadow']): Promise<SlotState> {
  const { slotName, sourceWalBytesMax } = shadow;
  const slot = await readSlot(source, slotName);
  if (slot === undefined || slot.invalidation !== undefined) {
    const why = slot === undefined ? 'does not exist any more' : `was invalidated`;
    throw new OperatorError('SLOT_LOST', `slot ${slotName} of the source ${why}`);
  }
  if (slot.retainedBytes > sourceWalBytesMax) {
    throw new OperatorError(
      'WAL_BUDGET_EXCEEDED',
      `slot ${slotName} retained ${slot.retainedBytes} bytes of WAL on the source; the budget is ${sourceWalBytesMax}`,
    );
  }
  return slot;
}

async function watchTarget(deps: MonitorDeps, seen: Seen, signal: AbortSignal): Promise<void> {
  const { target, receiver, spool, meter, clock, report, shadow } = deps;
  let isLate = await readIsLate(target, shadow.shadowId);
  for (;;) {
    const applied = meter.appliedLsn;
    const pinned = deps.floor.below(applied);
    if (seen.source !== undefined) {
      const { head, sent, retainedBytes } = seen.source;
      const lag = {
        sourceHeadLsn: formatLsn(head),
        sentLsn: formatLsn(sent),
        receivedLsn: formatLsn(receiver.receivedLsn),
        durableLsn: formatLsn(spool.durableLsn),
        appliedLsn: formatLsn(applied),
        lagBytes: Number(head > applied ? head - applied : lsn(0n)),
        lagMs: meter.lagMsAt(clock.now()),
        transactionsApplied: meter.transactions,
        rowsApplied: meter.rows,
        spoolBytes: spool.bytes,
        sourceWalBytes: retainedBytes,
        sourceWalBytesMax: shadow.sourceWalBytesMax,
      };
      // Before the commit below, which flushes what lanes have committed by now.
      const kept = await keepForStopped(deps, applied);
      deps.failpoints.hit('monitor.beforePosition');
      const known = { lagMs: lag.lagMs, isExact: meter.isLagExact };
      const wasLate = isLate;
      isLate = stepLateness(wasLate, known, shadow.maxLagMs);
      await recordPosition(target, shadow.shadowId, lag, {
        sourceWalRate: meter.sourceWalRate,
        isLate,
      });
      deps.failpoints.hit('monitor.afterPosition');
      // That commit was flushed, and so is every commit before it, the applied ones included.
      await spool.trim(earlier(kept, pinned));
      report({ type: 'lag', ...lag });
      if (isLate !== wasLate) tellLateness(deps, isLate, lag.lagMs);
    }
    await clock.sleep(TICK_MS, signal);
  }
}

/** Once for each transition, restarts included: the last one is on record. */
function tellLateness({ report, log, shadow }: MonitorDeps, isLate: boolean, lagMs: number): void {
  const { maxLagMs } = shadow;
  if (isLate) log.warn({ lagMs, maxLagMs }, 'the shadow is late');
  else log.info({ lagMs, maxLagMs }, 'the shadow is in time again');
  report({ type: isLate ? 'late' : 'inTime', lagMs, maxLagMs });
}

async function readIsLate(target: Session, shadowId: string): Promise<boolean> {
  const [row] = await target.query('SELECT is_late FROM understudy.position WHERE shadow_id = $1', [
    shadowId,
  ]);
  return row?.['is_late'] === 't';
}

type RecordedLag = Omit<Extract<Parameters<Report>[0], { type: 'lag' }>, 'type'>;

async function recordPosition(
  target: Session,
  shadowId: string,
  lag: RecordedLag,
  { sourceWalRate, isLate }: { readonly sourceWalRate: number; readonly isLate: boolean },
): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.position AS p
       (shadow_id, source_head_lsn, sent_lsn, received_lsn, durable_lsn, applied_lsn, lag_ms,
        transactions_applied, rows_applied, spool_bytes, source_wal_bytes, source_wal_rate, is_late, updated_at)
     VALUES ($1, $2::pg_lsn, $3::pg_lsn, $4::pg_lsn, $5::pg_lsn, $6::pg_lsn, $7, $8, $9, $10, $11, $12, $13, now())
     ON CONFLICT (shadow_id) DO UPDATE SET
       source_head_lsn = excluded.source_head_lsn, sent_lsn = excluded.sent_lsn,
       received_lsn = excluded.received_lsn, durable_lsn = excluded.durable_lsn,
       applied_lsn = excluded.applied_lsn, lag_ms = excluded.lag_ms,
       transactions_applied = excluded.transactions_applied, rows_applied = excluded.rows_applied,
       spool_bytes = excluded.spool_bytes, source_wal_bytes = excluded.source_wal_bytes,
       source_wal_rate = excluded.source_wal_rate, is_late = excluded.is_late,
       updated_at = excluded.updated_at`,
    [
      shadowId,
      lag.sourceHeadLsn,
      lag.sentLsn,
      lag.receivedLsn,
      lag.durableLsn,
      lag.appliedLsn,
      Math.round(lag.lagMs),
      lag.transactionsApplied,
      lag.rowsApplied,
      lag.spoolBytes,
      lag.sourceWalBytes,
      sourceWalRate,
      isLate,
    ],
  );
}
