import { access, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { quoteIdentifier } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { dropSlot } from '#src/db/postgres/replication/slot.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { identifySource } from '#src/shadow/clone/register.ts';
import { endAllKeepers } from '#src/shadow/copy/hold-snapshot.ts';
import { removeCapture } from '#src/shadow/ddl/capture.ts';
import { requestChannel } from '#src/shadow/follow/requests.ts';
import { isLeaseHeld, isOriginalTarget, takeLease } from '#src/shadow/lease.ts';
import { readShadows, type ShadowRecord } from '#src/shadow/ledger.ts';
import { findLeft, type Left } from '#src/shadow/left-behind.ts';
import { dropPublication, readPublication } from '#src/shadow/publication.ts';
import { requireUnlocked } from '#src/stream/spool/lock.ts';

/**
 * Removes what Understudy made for a shadow, by recorded name: on the source slot, publication and
 * keepers; on the target adjustments, origin and ledger; the spool. The copied tables and rows stay.
 *
 * The ledger goes last, so that a drop which is cut off is found again and ends when it is run again.
 *
 * A target that was restored or copied has the ledger of another one, which may go on following. There only
 * what is in this very database is removed; the lease says nothing, since it is one of a database.
 */
export type DropOptions = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly clock: Clock;
  readonly failpoints: Failpoints;
  readonly signal: AbortSignal;
};

export type Dropped = {
  readonly shadowId: string;
  /** What was there and is not any more, such as `slot understudy_1a2b3c4d`. */
  readonly removed: readonly string[];
  /** Whether this target is a restore or a copy of the one that the shadow was made in. */
  readonly isOfCopy: boolean;
  /** What is the original's then, and stays. */
  readonly left: readonly Left[];
};

const STOP_DEADLINE_MS = 30_000;
const STOP_POLL_MS = 100;
const SPOOL_DEADLINE_MS = 5_000;
const SLOT_DEADLINE_MS = 20_000;

/** Drop every shadow that the target has of this source. Throws SHADOW_MISSING when there is none, LEASE_HELD. */
export async function dropShadows(options: DropOptions): Promise<readonly Dropped[]> {
  const applicationName = 'understudy drop';
  await using source = await openSession(options.source, { applicationName });
  await using target = await openSession(options.target, { applicationName });
  const identity = await identifySource(source);
  const address = describeEndpoint(options.source);
  const shadows = (await readShadows(target)).filter(
    (shadow) =>
      (shadow.sourceSystemId === identity.systemId &&
        shadow.sourceDatabase === identity.database) ||
      // Its server was replaced by another one, which may have nothing of ours.
      shadow.sourceAddress === address,
  );
  if (shadows.length === 0) {
    throw new OperatorError(
      'SHADOW_MISSING',
      `the target holds no shadow of database ${identity.database} of system ${identity.systemId}`,
    );
  }
  const dropped: Dropped[] = [];
  for (const shadow of shadows) dropped.push(await dropShadow(options, shadow, source, target));
  return dropped;
}

async function dropShadow(
  options: DropOptions,
  shadow: ShadowRecord,
  source: Session,
  target: Session,
): Promise<Dropped> {
  const { failpoints } = options;
  const { shadowId } = shadow;
  const removed: string[] = [];
  await stopRunner(options, shadowId, target);
  failpoints.hit('drop.afterStop');
  await takeLease(target, shadowId, 'understudy drop');
  failpoints.hit('drop.afterLease');
  const isOfCopy = !(await isOriginalTarget(target, shadowId));
  const left = isOfCopy ? await findLeft(shadow, source, target) : [];
  if (!isOfCopy) {
    await untilSpoolIsFree(options, shadow);
    await dropOnSource(shadow, source, failpoints, removed);
    failpoints.hit('drop.afterSource');
    await dropSpool(shadow, removed);
    failpoints.hit('drop.afterSpool');
  }
  await dropOnTarget({ ...shadow, isOfCopy }, target, failpoints, removed);
  failpoints.hit('drop.afterTarget');
  return { shadowId, removed, isOfCopy, left };
}

/** A runner that lost its lease a moment ago ends by itself. One that does not, follows all the same. */
async function untilSpoolIsFree(
  { clock, signal }: DropOptions,
  { spoolDirectory }: ShadowRecord,
): Promise<void> {
  if (spoolDirectory === undefined) return;
  const deadlineMs = clock.now() + SPOOL_DEADLINE_MS;
  for (;;) {
    try {
      await requireUnlocked(spoolDirectory);
      return;
    } catch (error) {
      if (clock.now() > deadlineMs) throw error;
      await clock.sleep(STOP_POLL_MS, signal);
    }
  }
}

/** Ask the process that runs the shadow to end, and wait for it. */
async function stopRunner(options: DropOptions, shadowId: string, target: Session): Promise<void> {
  const { clock, signal } = options;
  if (!(await isLeaseHeld(target, shadowId))) return;
  await target.execute(
    `INSERT INTO understudy.request (shadow_id, kind, state, deadline)
     VALUES ($1, 'stop', 'open', now() + interval '30 seconds')`,
    [shadowId],
  );
  await target.query('SELECT pg_catalog.pg_notify($1, $2)', [requestChannel(shadowId), 'open']);
  const deadlineMs = clock.now() + STOP_DEADLINE_MS;
  while (await isLeaseHeld(target, shadowId)) {
    if (clock.now() > deadlineMs) {
      const [row] = await target.query('SELECT holder FROM understudy.lease WHERE shadow_id = $1', [
        shadowId,
      ]);
      throw new OperatorError(
        'LEASE_HELD',
        `shadow ${shadowId} is still run by ${row?.['holder'] ?? 'another process'}`,
      );
    }
    await clock.sleep(STOP_POLL_MS, signal);
  }
}

async function dropOnSource(
  shadow: ShadowRecord,
  source: Session,
  failpoints: Failpoints,
  removed: string[],
): Promise<void> {
  const { shadowId, slotName, publicationName } = shadow;
  if ((await endAllKeepers(source, shadowId)) > 0) removed.push('the keepers of its snapshot');
  failpoints.hit('drop.afterKeepers');
  if (slotName !== undefined && (await dropSlot(source, slotName, SLOT_DEADLINE_MS))) {
    removed.push(`slot ${slotName}`);
  }
  failpoints.hit('drop.afterSlot');
  removed.push(...(await removeCapture(source, shadowId)));
  if (publicationName === undefined) return;
  // Its name holds the shadow's random id, so it is ours also when a crash kept its oid off the record.
  const oid = await readPublication(source, publicationName);
  if (oid !== undefined && (await dropPublication(source, { name: publicationName, oid }))) {
    removed.push(`publication ${publicationName}`);
  }
}

/** Only a folder that says it is the spool of this shadow, on the machine where we are. */
async function dropSpool(shadow: ShadowRecord, removed: string[]): Promise<void> {
  const { spoolDirectory, shadowId } = shadow;
  if (spoolDirectory === undefined || !spoolDirectory.endsWith(shadowId)) return;
  const isSpool = await access(join(spoolDirectory, 'identity')).then(
    () => true,
    () => false,
  );
  if (!isSpool) return;
  await requireUnlocked(spoolDirectory);
  await rm(spoolDirectory, { recursive: true, force: true });
  removed.push(`spool ${spoolDirectory}`);
}

/** Every table of the ledger that is keyed by shadow, the shadow's own row last. */
const LEDGER_TABLES = [
  'lease',
  'snapshot',
  'relation',
  'definition_only',
  'part',
  'large_objects',
  'step',
  'adjustment',
  'progress',
  'position',
  'request',
  'chunking',
  'chunk',
  'dirty_chunk',
  'dirty_table',
  'schema_version',
  'verification',
  'shadow',
];

async function dropOnTarget(
  shadow: ShadowRecord & Pick<Dropped, 'isOfCopy'>,
  target: Session,
  failpoints: Failpoints,
  removed: string[],
): Promise<void> {
  const { shadowId, originName, isOfCopy } = shadow;
  await target.transaction(async () => {
    const undone = await undoAdjustments(target, shadowId);
    if (undone > 0) removed.push(`${undone} adjustments of the target`);
    failpoints.hit('drop.afterAdjustments');
    if (originName !== undefined && !isOfCopy) await dropOrigin(target, originName, removed);
    failpoints.hit('drop.afterOrigin');
    for (const table of LEDGER_TABLES) {
      await target.execute(`DELETE FROM understudy.${table} WHERE shadow_id = $1`, [shadowId]);
    }
    const [left] = await target.query('SELECT count(*) AS count FROM understudy.shadow');
    if (left?.['count'] !== '0') {
      removed.push(`shadow ${shadowId} from the ledger`);
      return;
    }
    // Without CASCADE: an object of somebody else in there stops us, with its name.
    await target.query(
      `DROP TABLE ${LEDGER_TABLES.map((table) => `understudy.${quoteIdentifier(table)}`).join(', ')}`,
    );
    await target.query('DROP SCHEMA understudy');
    failpoints.hit('drop.beforeCommit');
    removed.push('schema understudy of the target');
  });
}

async function undoAdjustments(target: Session, shadowId: string): Promise<number> {
  const adjustments = await target.query(
    'SELECT undo FROM understudy.adjustment WHERE shadow_id = $1 ORDER BY object',
    [shadowId],
  );
  for (const { undo } of adjustments) {
    await target.query('SAVEPOINT undo');
    try {
      await target.query(undo ?? '');
      await target.query('RELEASE SAVEPOINT undo');
    } catch (error) {
      // The object is gone, and its adjustment with it: undefined_table, undefined_object, undefined_column.
      // Or it is a NOT NULL, and the column is still as empty as it was excluded to be: not_null_violation.
      // Or it is a CHECK of a partition, and came back with that of its parent: duplicate_object.
      if (!['42P01', '42704', '42703', '23502', '42710'].includes(sqlstateOf(error) ?? ''))
        throw error;
      await target.query('ROLLBACK TO SAVEPOINT undo');
    }
  }
  return adjustments.length;
}

async function dropOrigin(target: Session, originName: string, removed: string[]): Promise<void> {
  const found = await target.query(
    'SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1',
    [originName],
  );
  if (found.length === 0) return;
  await target.query('SELECT pg_catalog.pg_replication_origin_drop($1)', [originName]);
  removed.push(`replication origin ${originName}`);
}
