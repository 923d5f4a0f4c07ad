import { formatLsn } from '#src/core/lsn.ts';
import { quoteLiteral, quoteTable, type TableName } from '#src/core/table.ts';
import { noticeLostClient } from '#src/db/postgres/connection/lost-client.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { mendLargeObjects } from '#src/shadow/large-objects/mend-large-objects.ts';
import { isLeaseHeld } from '#src/shadow/lease.ts';
import { rowsOfCommandTag } from '#src/wire/postgres/backend.ts';

import { compareChunks } from './compare-chunks.ts';
import { withLock } from './compare-table.ts';
import type { PreparedTable } from './comparison.ts';
import { enterMoment, leaveMoment, type Moment } from './moment.ts';
import { openPairs, type Pair } from './pair.ts';
import { nameOf, prepare, settle, type Settled } from './prepare.ts';
import { findUnfollowable, rejoin } from './rejoin.ts';
import { repairTable, type RepairWires } from './repair-table.ts';
import {
  compareSequences,
  NO_SEQUENCES,
  readSequencesNow,
  readSequenceValues,
  type SequenceValues,
} from './sequences.ts';
import { type Verdict, verifyShadow, type VerifyOptions } from './verify.ts';

export type Repair = {
  readonly found: Verdict;
  /** Rows that were deleted, inserted or replaced on the target. */
  readonly rows: number;
  /** What a comparison says after the repair; `found` when there was nothing to mend. */
  readonly after: Verdict;
};

/**
 * Compare, mend what differs, and compare again.
 *
 * The repair has a fence of its own (trap 26): what was read at the first one may be old by now, and
 * writing it back would undo newer changes. While the applier stands at the second fence, the chunks that
 * differed are compared anew, and the rows that still differ are made the source's in one transaction,
 * which also releases the fence: if the follower has gone on, nothing is written.
 *
 * Throws REPAIR_REFUSED for a shadow whose follower does not run, COPY_MISMATCH, and what verifying throws.
 */
export async function repairShadow(options: VerifyOptions): Promise<Repair> {
  const found = await verifyShadow(options);
  const isBehind = found.listed.some(({ kind }) => kind === 'sequence');
  const { length: largeObjects } = found.largeObjects.different;
  if (found.different.size + found.stopped.size + largeObjects === 0 && !isBehind) {
    return { found, rows: 0, after: found };
  }
  await using opened = await openPairs(options, 1);
  await using control = await openSession(options.target, { applicationName: 'understudy repair' });
  const [pair] = opened.pairs;
  if (pair === undefined) throw new Error('unreachable: one pair was asked for');
  await refuseWithoutFollower(control, options);
  const rows = await mend({ options, found, pair, control });
  return { found, rows, after: await verifyShadow({ ...options, isFull: false }) };
}

/** Rows of now in a target that will apply older changes again would be changed twice. */
async function refuseWithoutFollower(control: Session, options: VerifyOptions): Promise<void> {
  const { shadowId, moment } = options;
  if (shadowId === undefined || moment.kind === 'fence') return;
  const [row] = await control.query(
    'SELECT is_followed FROM understudy.shadow WHERE shadow_id = $1',
    [shadowId],
  );
  if (row?.['is_followed'] !== 't' && !(await isLeaseHeld(control, shadowId))) return;
  throw new OperatorError(
    'REPAIR_REFUSED',
    `shadow ${shadowId} is followed, and no fence was taken with its follower`,
  );
}

type Mending = {
  readonly options: VerifyOptions;
  readonly found: Verdict;
  readonly pair: Pair;
  readonly control: Session;
};

async function mend({ options, found, pair, control }: Mending): Promise<number> {
  const withStopped = { ...options, isWithStopped: true };
  const prepared = await prepare({ ...withStopped, pair, control });
  await using wires = await openWires(options);
  let sequences: SequenceValues = NO_SEQUENCES;
  const moment = await enterMoment({
    choice: options.moment,
    pairs: [pair],
    source: options.source,
    control,
    failpoints: options.failpoints,
    onSourceRead: async () => {
      sequences = await readSequencesNow(options.source, options.sequences);
    },
  });
  await using fence = moment.fence;
  const settled = await settle(pair.target, prepared, withStopped);
  await Promise.all([
    join(wires.source, pair.source, 'READ ONLY'),
    join(wires.target, pair.target, 'READ WRITE'),
  ]);
  // Neither triggers nor foreign keys: rows are as the source has them.
  await wires.target.query('SET LOCAL session_replication_role = replica');
  let rows = 0;
  for (const table of await mendable(settled, { options, pair, moment })) {
    options.signal.throwIfAborted();
    const isStopped = settled.stopped.has(table.table.oid);
    rows += await mendTable({ options, found, pair, wires, moment }, table, isStopped);
  }
  const mendedObjects = await mendLargeObjects(pair, wires.target, found.largeObjects.different);
  options.failpoints.hit('repair.beforeCommit');
  await commit(wires.target, moment);
  options.failpoints.hit('repair.afterCommit');
  await fence?.released();
  await leaveMoment([pair]);
  options.failpoints.hit('repair.beforeSequences');
  await raiseSequences(control, sequences);
  const where = moment.lsn === undefined ? '' : ` at ${formatLsn(moment.lsn)}`;
  const what = mendedObjects === 0 ? 'rows' : `rows and ${mendedObjects} large objects`;
  options.report({ type: 'notice', level: 'info', message: `repaired ${rows} ${what}${where}` });
  return rows;
}

/** All but the stopped tables that could not follow from the fence on: mended or not, they would be wrong soon. */
async function mendable(
  { tables, stopped }: Settled,
  parts: Pick<Mending, 'options' | 'pair'> & { readonly moment: Moment },
): Promise<readonly PreparedTable[]> {
  const { options, pair, moment } = parts;
  if (options.shadowId === undefined || moment.fence === undefined) return tables;
  const unfollowable = await findUnfollowable({
    pair,
    source: options.source,
    shadowId: options.shadowId,
    tables: tables.map(({ table }) => table).filter(({ oid }) => stopped.has(oid)),
  });
  for (const why of unfollowable.values()) warn(options, why);
  return tables.filter(({ table }) => !unfollowable.has(table.oid));
}

/** Returns the rows that were mended. A stopped table follows again, if all of it could be compared. */
async function mendTable(
  parts: Omit<Mending, 'control'> & { readonly wires: RepairWires; readonly moment: Moment },
  prepared: PreparedTable,
  isStopped: boolean,
): Promise<number> {
  const { options, found, pair, wires, moment } = parts;
  const { shadowId, failpoints } = options;
  const { table } = prepared;
  const chunks = await chunksToMend(pair, prepared, isStopped ? undefined : moment, found);
  if (chunks?.length === 0 && !isStopped) return 0;
  if (!prepared.isSameShape) {
    warn(options, `${nameOf(table)} is made otherwise on the target and was not repaired`);
    return 0;
  }
  failpoints.hit('repair.beforeTable');
  const mended =
    chunks === undefined ? undefined : await repairTable(pair, wires, { ...prepared, chunks });
  failpoints.hit('repair.afterTable');
  if (mended === undefined) {
    warn(options, `${nameOf(table)} was rewritten or locked meanwhile and was not repaired`);
    return 0;
  }
  if (isStopped && shadowId !== undefined && moment.fence !== undefined) {
    await rejoin(wires.target, shadowId, table, moment.fence.lsn);
  }
  return mended;
}

async function openWires(options: VerifyOptions): Promise<RepairWires & AsyncDisposable> {
  await using opened = new AsyncDisposableStack();
  const applicationName = 'understudy repair';
  const source = opened.use(await openWireConnection(options.source, { applicationName }));
  const target = opened.use(await openWireConnection(options.target, { applicationName }));
  await Promise.all([source, target].map(noticeLostClient));
  const owned = opened.move();
  return { source, target, [Symbol.asyncDispose]: async () => owned.disposeAsync() };
}

/** Begin a transaction on the snapshot of `session`. */
async function join(
  wire: WireConnection,
  session: Session,
  access: 'READ ONLY' | 'READ WRITE',
): Promise<void> {
  const [row] = await session.query('SELECT pg_export_snapshot() AS snapshot');
  await wire.query(`BEGIN ISOLATION LEVEL REPEATABLE READ ${access}`);
  await wire.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(row?.['snapshot'] ?? '')}`);
}

/**
 * At a fence, those that differed at the first one: the applier should stand shortly. Without one (or
 * for a table that did not follow) the target must become the source of one moment, so all chunks are
 * compared again at this one. Undefined when the table could not be compared.
 */
async function chunksToMend(
  pair: Pair,
  table: PreparedTable,
  moment: Moment | undefined,
  found: Verdict,
): Promise<readonly bigint[] | undefined> {
  if (moment?.fence !== undefined) return found.different.get(table.table.oid) ?? [];
  const outcome = await withLock(pair, table.table, async () =>
    compareChunks(pair, { ...table, chunks: undefined }),
  );
  return outcome?.different;
}

/** With the fence's release, so that there is no commit after the follower went on by itself. */
async function commit(target: WireConnection, { fence }: Moment): Promise<void> {
  if (fence !== undefined) {
    const released = await target.query(fence.releaseSql).catch((error: unknown) => {
      if (sqlstateOf(error) === '40001') return []; // serialization_failure: the row has changed
      throw error;
    });
    if (rowsOfCommandTag(released.at(-1)?.commandTag ?? '') !== 1) {
      throw new OperatorError(
        'FENCE_TIMEOUT',
        'the follower went on before the repair was done; nothing was repaired',
      );
    }
  }
  await target.query('COMMIT');
}

/** Not transactional, and harmless: a sequence may always be ahead (trap 27). */
async function raiseSequences(control: Session, source: SequenceValues): Promise<void> {
  const target = await readSequenceValues(control, source.values);
  for (const difference of compareSequences(source, target)) {
    const { table } = difference;
    const last = source.values.find((value) => isNamed(value, table))?.last;
    if (last === undefined || !target.values.some((value) => isNamed(value, table))) continue;
    await control.query('SELECT pg_catalog.setval($1::regclass, $2::int8)', [
      quoteTable(table),
      last,
    ]);
  }
}

function isNamed(one: TableName, other: TableName): boolean {
  return one.schema === other.schema && one.name === other.name;
}

function warn(options: VerifyOptions, message: string): void {
  options.report({ type: 'notice', level: 'warn', message });
}
