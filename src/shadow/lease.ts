import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import type { ProgressKind } from '#src/db/postgres/apply/progress.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
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

/** Where applied progress is kept on this target: an origin where the role may use one, else a row. */
export async function chooseProgress(target: Session): Promise<ProgressKind> {
  const [row] = await target.query(
    `SELECT bool_and(pg_catalog.has_function_privilege(f, 'EXECUTE')) AS allowed FROM (VALUES
       ('pg_catalog.pg_replication_origin_create(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_oid(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_drop(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_advance(text, pg_lsn)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_progress(text, boolean)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_session_setup(text)'::regprocedure::oid),
       ('pg_catalog.pg_replication_origin_xact_setup(pg_lsn, timestamptz)'::regprocedure::oid)) AS v (f)`,
  );
  return { kind: row?.['allowed'] === 't' ? 'origin' : 'table' };
}

/** Begin progress at the slot's consistent point: everything before it is in the copy. */
export async function initProgress(
  target: Session,
  shadow: { readonly shadowId: string; readonly originName: string | undefined },
  start: Lsn,
): Promise<void> {
  const { shadowId, originName } = shadow;
  if (originName !== undefined) {
    await target.query(
      `SELECT pg_catalog.pg_replication_origin_create($1)
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1)`,
      [originName],
    );
    return;
  }
  await target.execute(
    `INSERT INTO understudy.progress (shadow_id, applied_lsn) VALUES ($1, $2::pg_lsn)
     ON CONFLICT (shadow_id) DO NOTHING`,
    [shadowId, formatLsn(start)],
  );
}

/**
 * The end of the last source transaction that the target has committed, or `start` before the first.
 *
 * An origin belongs to the server and not to the database, and anybody who may can drop it, reset it or
 * restore the database beside it. So what it says must not be before a position that the ledger holds as
 * applied: that was written after the commit, so it is never ahead of a progress that is in order. To go
 * on from an older position would apply changes twice.
 *
 * Throws PROGRESS_LOST.
 */
export async function readProgress(
  target: Session,
  shadow: { readonly shadowId: string; readonly originName: string | undefined },
  start: Lsn,
): Promise<Lsn> {
  // First: it may grow while we ask for the other.
  const [position] = await target.query(
    'SELECT applied_lsn AS lsn FROM understudy.position WHERE shadow_id = $1',
    [shadow.shadowId],
  );
  const witness = parseLsn(position?.['lsn'] ?? '') ?? lsn(0n);
  const { name, found } = await readKept(target, shadow);
  if (!found.isThere) {
    throw new OperatorError('PROGRESS_LOST', `${name} of the target is gone`);
  }
  const applied = found.lsn > start ? found.lsn : start;
  if (applied >= witness) return applied;
  throw new OperatorError(
    'PROGRESS_LOST',
    `${name} of the target is at ${formatLsn(applied)}, and was at ${formatLsn(witness)} already`,
  );
}

type Kept = { readonly isThere: boolean; readonly lsn: Lsn };

async function readKept(
  target: Session,
  { shadowId, originName }: { readonly shadowId: string; readonly originName: string | undefined },
): Promise<{ readonly name: string; readonly found: Kept }> {
  const nothing = lsn(0n);
  if (originName === undefined) {
    const [row] = await target.query(
      'SELECT applied_lsn AS lsn FROM understudy.progress WHERE shadow_id = $1',
      [shadowId],
    );
    const found = { isThere: row !== undefined, lsn: parseLsn(row?.['lsn'] ?? '') ?? nothing };
    return { name: `the progress of shadow ${shadowId}`, found };
  }
  const name = `replication origin ${originName}`;
  try {
    const [row] = await target.query(
      'SELECT pg_catalog.pg_replication_origin_progress($1, true) AS lsn',
      [originName],
    );
    return { name, found: { isThere: true, lsn: parseLsn(row?.['lsn'] ?? '') ?? nothing } };
  } catch (error) {
    // undefined_object
    if (sqlstateOf(error) !== '42704') throw error;
    return { name, found: { isThere: false, lsn: nothing } };
  }
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
 * Also where progress is a row, which fits the rows of a copy: two targets that take turns on one slot
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
