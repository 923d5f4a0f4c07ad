import { type Lsn, parseLsn } from '#src/core/lsn.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** Every connection of ours says so in its application name; only those are ended to free a slot. */
const OUR_APPLICATION = 'understudy';

const RETRY_MS = 100;

export type SystemIdentity = {
  /** Made by initdb; the same on a server and its physical copies. */
  readonly systemId: string;
  readonly timeline: number;
};

/** Which server this is, asked on a replication connection. */
export async function identifySystem(connection: WireConnection): Promise<SystemIdentity> {
  const [system] = await connection.query('IDENTIFY_SYSTEM');
  const [systemId, timeline] = system?.rows[0] ?? [];
  return { systemId: systemId ?? '', timeline: Number(timeline) };
}

/** What pg_replication_slots says about a logical slot, alike for 14 to 18. */
export type SlotState = {
  readonly name: string;
  readonly plugin: string;
  readonly database: string;
  readonly isTemporary: boolean;
  readonly isActive: boolean;
  readonly activePid: number | undefined;
  /** Everything before it is confirmed as durable on our side and will not be sent again. */
  readonly confirmedFlushLsn: Lsn | undefined;
  /** WAL from here on is retained. */
  readonly restartLsn: Lsn | undefined;
  readonly retainedBytes: number;
  readonly walStatus: 'reserved' | 'extended' | 'unreserved' | 'lost' | undefined;
  /** What the server may still write before it takes the slot's WAL away; undefined without a limit. */
  readonly safeWalBytes: number | undefined;
  /** Why the slot can never be read again: invalidation_reason (17), conflicting (16), or no WAL any more. */
  readonly invalidation: string | undefined;
  /** Whether standbys that synchronise slots (17) have it, too. */
  readonly isFailover: boolean;
};

/** https://www.postgresql.org/docs/current/view-pg-replication-slots.html */
export async function readSlot(session: Session, name: string): Promise<SlotState | undefined> {
  // Newer columns by to_jsonb, so that one statement suits every version.
  const [row] = await session.query(
    `SELECT s.plugin, s.database, s.temporary, s.active, s.active_pid, s.confirmed_flush_lsn,
            s.restart_lsn, s.wal_status, s.safe_wal_size,
            to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason,
            to_jsonb(s) ->> 'conflicting' AS conflicting,
            to_jsonb(s) ->> 'failover' AS failover,
            coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                          ELSE pg_current_wal_lsn() END - s.restart_lsn, 0)::bigint AS retained
       FROM pg_replication_slots s WHERE s.slot_name = $1 AND s.slot_type = 'logical'`,
    [name],
  );
  if (row === undefined) return undefined;
  const text = (column: string): string | undefined => row[column] ?? undefined;
  const number = (column: string): number | undefined =>
    text(column) === undefined ? undefined : Number(text(column));
  return {
    name,
    plugin: text('plugin') ?? '',
    database: text('database') ?? '',
    isTemporary: row['temporary'] === 't',
    isActive: row['active'] === 't',
    activePid: number('active_pid'),
    confirmedFlushLsn: parseLsn(text('confirmed_flush_lsn') ?? ''),
    restartLsn: parseLsn(text('restart_lsn') ?? ''),
    retainedBytes: number('retained') ?? 0,
    walStatus: WAL_STATUSES.find((status) => status === text('wal_status')),
    safeWalBytes: number('safe_wal_size'),
    invalidation: invalidationOf(row),
    isFailover: row['failover'] === 'true',
  };
}

const WAL_STATUSES = ['reserved', 'extended', 'unreserved', 'lost'] as const;

function invalidationOf(row: Readonly<Record<string, string | null>>): string | undefined {
  if (row['invalidation_reason']) return row['invalidation_reason'];
  if (row['conflicting'] === 'true') return 'conflict with recovery';
  if (row['wal_status'] === 'lost' || row['restart_lsn'] === null) return 'wal_removed';
  return undefined;
}

/**
 * Drop a slot; false when there was none. A connection of ours that still reads it is ended, and its
 * release awaited. Throws SLOT_IN_USE when somebody else holds it, or ours does not let go in time.
 */
export async function dropSlot(
  session: Session,
  name: string,
  deadlineMs: number,
): Promise<boolean> {
  const deadline = AbortSignal.timeout(deadlineMs);
  for (;;) {
    const slot = await readSlot(session, name);
    if (slot === undefined) return false;
    if (slot.activePid !== undefined) await endOurReader(session, slot.activePid);
    try {
      await session.query('SELECT pg_drop_replication_slot($1)', [name]);
      return true;
    } catch (error) {
      const sqlstate = sqlstateOf(error);
      if (sqlstate === '42704') return false; // undefined_object: a temporary one went with its session
      if (sqlstate !== '55006') throw error; // object_in_use
      if (deadline.aborted) throw slotInUse(name, slot.activePid);
    }
    await session.query(`SELECT pg_sleep(${RETRY_MS / 1000})`);
  }
}

/** End the walsender with this pid if it serves a connection of ours. */
export async function endOurReader(session: Session, processId: number): Promise<void> {
  await session.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE pid = $1 AND starts_with(application_name, $2)`,
    [processId, OUR_APPLICATION],
  );
}

export function slotInUse(name: string, processId: number | undefined): OperatorError {
  const reader = processId === undefined ? 'another process' : `server process ${processId}`;
  return new OperatorError('SLOT_IN_USE', `slot ${name} is read by ${reader}`, {
    detail: { sqlstate: '55006' },
  });
}

/** Throws PROTOCOL_VIOLATION. */
export function readLsn(text: string | null | undefined, source: string): Lsn {
  const position = parseLsn(text ?? '');
  if (position !== undefined) return position;
  throw new OperatorError('PROTOCOL_VIOLATION', `${source} gave no WAL position`);
}
