import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { TARGET_IDENTITY } from '#src/db/postgres/ledger-schema.ts';
import { OperatorError } from '#src/lib/errors.ts';

/**
 * One runner per shadow (trap 20). The session that holds the advisory lock is the runner, so a runner
 * that died is replaced at once; the epoch in the ledger, which every apply transaction reads FOR SHARE,
 * stops one that lost its session without noticing (I5).
 */
const LOCK_CLASS = 0x75_6e_64_73; // "unds"

/** Throws LEASE_HELD, with its epoch in `detail`, while another session is the runner. Returns the epoch of this one. */
export async function takeLease(
  target: Session,
  shadowId: string,
  holder: string,
): Promise<bigint> {
  const [lock] = await target.query(
    'SELECT pg_catalog.pg_try_advisory_lock($1::int4, pg_catalog.hashtext($2)) AS taken',
    [LOCK_CLASS, shadowId],
  );
  if (lock?.['taken'] !== 't') {
    const [row] = await target.query(
      'SELECT holder, epoch FROM understudy.lease WHERE shadow_id = $1',
      [shadowId],
    );
    throw new OperatorError(
      'LEASE_HELD',
      `shadow ${shadowId} is run by ${row?.['holder'] ?? 'another process'}`,
      { detail: { epoch: row?.['epoch'] ?? '0' } },
    );
  }
  const [row] = await target.query(
    `INSERT INTO understudy.lease AS l (shadow_id, epoch, holder) VALUES ($1, 1, $2)
     ON CONFLICT (shadow_id) DO UPDATE SET epoch = l.epoch + 1, holder = excluded.holder
     RETURNING epoch`,
    [shadowId, holder],
  );
  return BigInt(row?.['epoch'] ?? 0);
}

/** Whether some session is the runner of this shadow now. */
export async function isLeaseHeld(target: Session, shadowId: string): Promise<boolean> {
  const [row] = await target.query(
    `SELECT EXISTS (SELECT FROM pg_catalog.pg_locks
       WHERE locktype = 'advisory' AND classid = $1::int8::oid AND objsubid = 2
         AND objid::int8 = (pg_catalog.hashtext($2)::int8 & 4294967295)
         AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) AS held`,
    [LOCK_CLASS, shadowId],
  );
  return row?.['held'] === 't';
}

/** Whether the role may tag what it applies with a replication origin. */
export async function mayUseOrigin(target: Session): Promise<boolean> {
  const [row] = await target.query(
    `SELECT bool_and(pg_catalog.has_function_privilege(f, 'EXECUTE')) AS allowed FROM (VALUES
       ('pg_catalog.pg_replication_origin_create(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_drop(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_session_setup(text)'::regprocedure::oid)) AS v (f)`,
  );
  return row?.['allowed'] === 't';
}

/** Begin progress at the slot's consistent point: everything before it is in the copy. */
export async function initProgress(target: Session, shadowId: string, start: Lsn): Promise<void> {
  await target.transaction(async () => {
    // A run that died here had another slot.
    await target.execute('DELETE FROM understudy.progress WHERE shadow_id = $1', [shadowId]);
    await target.execute('INSERT INTO understudy.progress VALUES ($1, $2::pg_lsn)', [
      shadowId,
      formatLsn(start),
    ]);
  });
}

/**
 * The end of the last source transaction that the target has committed, or the slot's consistent point
 * before the first.
 *
 * Must not be before a position that the ledger holds as applied: that was written after the commit, so it is
 * never ahead of a progress that is in order. To go on from an older position would apply changes twice.
 *
 * Throws PROGRESS_LOST.
 */
export async function readProgress(target: Session, shadowId: string): Promise<Lsn> {
  // First: it may grow while we ask for the other.
  const [position] = await target.query(
    'SELECT applied_lsn AS lsn FROM understudy.position WHERE shadow_id = $1',
    [shadowId],
  );
  const witness = parseLsn(position?.['lsn'] ?? '') ?? lsn(0n);
  // In the order of the index: a long snapshot keeps many former versions of the row.
  const [row] = await target.query(
    'SELECT applied_lsn AS lsn FROM understudy.progress WHERE shadow_id = $1 ORDER BY applied_lsn DESC LIMIT 1',
    [shadowId],
  );
  const applied = parseLsn(row?.['lsn'] ?? '');
  if (applied === undefined) {
    throw new OperatorError(
      'PROGRESS_LOST',
      `the progress of shadow ${shadowId} is gone from the target`,
    );
  }
  if (applied >= witness) return applied;
  throw new OperatorError(
    'PROGRESS_LOST',
    `the progress of shadow ${shadowId} on the target is at ${formatLsn(applied)}, and was at ${formatLsn(witness)} already`,
  );
}

/**
 * Whether this is the target that the shadow was made in. A database restored from a dump, or made from a
 * template, is not: slot, spool and origin are those of the other one, which may go on following.
 */
export async function isOriginalTarget(target: Session, shadowId: string): Promise<boolean> {
  const [row] = await target.query(
    `SELECT target_identity = ${TARGET_IDENTITY} AS is_same FROM understudy.shadow WHERE shadow_id = $1`,
    [shadowId],
  );
  return row?.['is_same'] !== 'f';
}

/**
 * The progress of a copy fits its rows, but two targets that take turns on one slot
 * would each let go of what the other one needs.
 *
 * Throws PROGRESS_LOST.
 */
export async function requireOriginalTarget(target: Session, shadowId: string): Promise<void> {
  if (await isOriginalTarget(target, shadowId)) return;
  throw new OperatorError(
    'PROGRESS_LOST',
    `the target was restored or copied since shadow ${shadowId} was made; slot and spool are not those of this copy`,
  );
}
