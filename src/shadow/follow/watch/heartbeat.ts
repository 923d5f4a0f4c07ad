import type { Session } from '#src/db/postgres/connection/session.ts';

/** The prefix of our logical messages; its content is `<shadow id> <milliseconds since the Unix epoch>`. */
export const HEARTBEAT_PREFIX = 'understudy';

/**
 * Write a transactional message into the source's stream. It moves the slot of an idle database next to
 * a busy one, measures the lag end to end, and ends a fence: what commits before it is known to be all.
 * It touches no table and needs no right.
 */
export async function sendHeartbeat(
  source: Session,
  shadowId: string,
  nowMs: number,
): Promise<void> {
  await source.query('SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)', [
    HEARTBEAT_PREFIX,
    `${shadowId} ${nowMs}`,
  ]);
}
