import type { Session } from '#src/db/postgres/connection/session.ts';

/** A write transaction that a new slot has to wait for (trap 3). */
export type SlotBlocker = {
  /** Stays the same for the life of the transaction. */
  readonly id: string;
  readonly kind: 'session' | 'prepared';
  /** The server process, or the global id of a prepared transaction. */
  readonly name: string;
  readonly database: string;
  /** What it says it is, and what it does: such as idle in transaction. Empty where we may not know. */
  readonly application: string;
  readonly state: string;
  readonly ageMs: number;
};

/**
 * Write transactions of the whole cluster, oldest first. Told by pg_locks, where everybody sees every
 * transaction's lock on its own id; pg_stat_activity hides backend_xid from an ordinary role.
 */
export async function readSlotBlockers(session: Session): Promise<readonly SlotBlocker[]> {
  const rows = await session.query(
    `SELECT 'session' AS kind, l.pid::text AS name, coalesce(a.datname, '') AS database,
            coalesce(a.application_name, '') AS application, coalesce(a.state, '') AS state,
            min(l.transactionid::text::bigint) AS xid,
            coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0) AS age
       FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
      WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
        AND l.pid <> pg_backend_pid()
      GROUP BY l.pid, a.datname, a.application_name, a.state, a.xact_start
      UNION ALL
     SELECT 'prepared', p.gid, p.database, '', '', p.transaction::text::bigint,
            extract(epoch FROM clock_timestamp() - p.prepared)
       FROM pg_prepared_xacts p
      ORDER BY age DESC`,
  );
  return rows.map((row) => ({
    id: `${row['name']}:${row['xid']}`,
    kind: row['kind'] === 'prepared' ? 'prepared' : 'session',
    name: row['name'] ?? '',
    database: row['database'] ?? '',
    application: row['application'] ?? '',
    state: row['state'] ?? '',
    ageMs: Math.round(Number(row['age']) * 1000),
  }));
}

export function describeBlocker(blocker: SlotBlocker): string {
  const who =
    blocker.kind === 'prepared'
      ? `prepared transaction '${blocker.name}'`
      : `server process ${blocker.name}${describeActivity(blocker)}`;
  const where = blocker.database === '' ? '' : ` in database ${blocker.database}`;
  return `${who}${where}, open for ${Math.round(blocker.ageMs / 1000)} s`;
}

function describeActivity({ application, state }: SlotBlocker): string {
  const known = [application, state].filter((one) => one !== '');
  return known.length === 0 ? '' : ` (${known.join(', ')})`;
}
