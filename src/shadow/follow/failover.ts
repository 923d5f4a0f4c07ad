import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import { limitAnswers } from '#src/db/postgres/connection/answer-limit.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { openReplicationConnection } from '#src/db/postgres/replication/create-slot.ts';
import { identifySystem, readLsn } from '#src/db/postgres/replication/slot.ts';
import { readTimelineHistory, type TimelineEnd } from '#src/db/postgres/replication/timeline.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { ShadowRecord } from '#src/shadow/ledger.ts';
import type { CommitPoint } from '#src/wire/postgres/pgoutput.ts';

/**
 * A standby that is promoted goes on with its primary's system id, on a new timeline. What the primary
 * had written from the switch on is lost, and its positions are given out again:
 *
 *     timeline 1   ───────────────●──── lost ────
 *     timeline 2                  └───────────────►
 *
 * A shadow that has nothing from behind the switch can go on there. One that has is ahead of its source:
 * it holds rows that no longer exist, and would take new transactions for ones that it knows. It is
 * refused (traps 8, 15).
 */
export type SourceTimeline = {
  readonly timeline: number;
  readonly ancestors: readonly TimelineEnd[];
};

/** Throws SOURCE_CHANGED for another system, CONNECTION_FAILED while the source is a standby. */
export async function readSourceTimeline(
  source: Endpoint,
  shadow: Pick<ShadowRecord, 'shadowId' | 'sourceSystemId'>,
): Promise<SourceTimeline> {
  await using connection = await openReplicationConnection({
    endpoint: source,
    applicationName: `understudy ${shadow.shadowId} identify`,
  });
  using _ = limitAnswers(connection);
  const [recovery] = await connection.query('SELECT pg_catalog.pg_is_in_recovery()');
  if (recovery?.rows[0]?.[0] === 't') {
    throw new OperatorError('CONNECTION_FAILED', `${describeEndpoint(source)} is a standby`);
  }
  const { systemId, timeline } = await identifySystem(connection);
  if (systemId !== shadow.sourceSystemId) {
    throw new OperatorError(
      'SOURCE_CHANGED',
      `${describeEndpoint(source)} is system ${systemId}, not ${shadow.sourceSystemId}`,
    );
  }
  return { timeline, ancestors: await readTimelineHistory(connection, timeline) };
}

/**
 * That a shadow which recorded another timeline can go on with the source's. `known` is the end of what
 * the target and the spool have.
 *
 * Throws SOURCE_CHANGED when the source does not descend from the recorded timeline, SOURCE_BEHIND when
 * the shadow has something from behind the switch.
 */
export async function requireDescendant(
  target: Session,
  shadow: ShadowRecord,
  found: SourceTimeline,
  known: Lsn,
): Promise<Lsn> {
  const { sourceTimeline } = shadow;
  const end = found.ancestors.find(({ timeline }) => timeline === sourceTimeline);
  if (end === undefined) {
    throw new OperatorError(
      'SOURCE_CHANGED',
      `the source is on timeline ${found.timeline}, which does not descend from timeline ${sourceTimeline} of shadow ${shadow.shadowId}`,
    );
  }
  const newest = await readNewest(target, shadow, known);
  if (newest > end.endLsn) {
    throw new OperatorError(
      'SOURCE_BEHIND',
      `the source went over to timeline ${found.timeline} at ${formatLsn(end.endLsn)}, and the shadow has what its former primary wrote up to ${formatLsn(newest)}`,
      { detail: { switchLsn: formatLsn(end.endLsn), newestLsn: formatLsn(newest) } },
    );
  }
  return end.endLsn;
}

/**
 * That the source's WAL reaches what the shadow has. A server sends only what it has flushed, and comes back
 * from a crash with all of that; so one that ends before it was put back to an older state of its disk, on
 * the same timeline: a snapshot of the volume or the machine, or writes that were acknowledged and lost. It
 * gives positions out again, and what it commits below `known` would never be sent (traps 8, 15).
 *
 * Throws SOURCE_BEHIND.
 */
export async function requireReached(
  sessions: { readonly source: Session; readonly target: Session },
  shadow: ShadowRecord,
  known: Lsn,
): Promise<void> {
  // First: whoever ran the shadow before may have received until a moment ago.
  const newest = await readNewest(sessions.target, shadow, known);
  const [row] = await sessions.source.query('SELECT pg_catalog.pg_current_wal_flush_lsn() AS head');
  const head = readLsn(row?.['head'], 'pg_current_wal_flush_lsn');
  if (head < newest) throw sourceBehind(head, newest);
}

/**
 * Throws SOURCE_BEHIND for a first transaction that is another than the one that the shadow has there: the
 * source was put back, and has written more since than it had before. Positions may be the same by chance.
 */
export function requireSame(
  witness: CommitPoint,
  found: Pick<CommitPoint, 'commitLsn' | 'commitTime'>,
): void {
  const { commitLsn, commitTime } = witness;
  if (found.commitLsn === commitLsn && found.commitTime === commitTime) return;
  throw new OperatorError(
    'SOURCE_BEHIND',
    `the source was put back to an older state: the transaction that the shadow has from ${formatLsn(commitLsn)} is not there any more`,
    { detail: { newestLsn: formatLsn(commitLsn) } },
  );
}

export function sourceBehind(head: Lsn, newest: Lsn): OperatorError {
  return new OperatorError(
    'SOURCE_BEHIND',
    `the source was put back to an older state: its WAL ends at ${formatLsn(head)}, and the shadow has what it wrote up to ${formatLsn(newest)}`,
    { detail: { headLsn: formatLsn(head), newestLsn: formatLsn(newest) } },
  );
}

/** The end of what the target and the spool have, and of the snapshots that tables were copied or mended from. */
async function readNewest(target: Session, shadow: ShadowRecord, known: Lsn): Promise<Lsn> {
  const [row] = await target.query(
    `SELECT greatest((SELECT max(start_lsn) FROM understudy.relation WHERE shadow_id = $1),
                     (SELECT max(lsn) FROM understudy.snapshot WHERE shadow_id = $1)) AS lsn`,
    [shadow.shadowId],
  );
  const copied = parseLsn(row?.['lsn'] ?? '') ?? lsn(0n);
  return [known, copied, shadow.consistentLsn ?? lsn(0n)].reduce((a, b) => (a > b ? a : b));
}
