import { quoteTable, type Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import {
  chooseStreamFormat,
  insertRelations,
  recordedColumns,
  type RelationRecord,
  readRelationRecords,
  type ShadowRecord,
} from '#src/shadow/ledger.ts';
import { isPreDataRestored } from '#src/shadow/schema/restore.ts';
import { readChunking } from '#src/shadow/verify/chunking.ts';

/**
 * The shadow's tables as the source has them now, out of `tables`. One that has no copy yet must be as it
 * was recorded. One that has is left out when it is not: it stops at the first change that shows it.
 *
 * Throws TABLE_CHANGED.
 */
export async function readDataset(
  target: Session,
  shadowId: string,
  tables: readonly Table[],
): Promise<readonly Table[]> {
  const records = await readRelationRecords(target, shadowId);
  const byOid = new Map(tables.map((table) => [table.oid, table]));
  return records.flatMap((record) => {
    // What a lane brings in is not the clone's to copy.
    if (record.isInLane) return [];
    const table = byOid.get(record.sourceOid);
    if (table !== undefined && hasRecordedShape(record, table)) return [table];
    if (record.state === 'copied' || record.state === 'stopped') return [];
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(record)} was changed or dropped on the source before it was copied`,
      { detail: { relation: record.sourceOid } },
    );
  });
}

/**
 * Whether nothing of the shadow depends on what its tables look like: no change is kept for it yet, and
 * nothing is on the target. It may still have a publication, which nobody reads.
 */
export async function isUnbound(target: Session, shadow: ShadowRecord): Promise<boolean> {
  if (shadow.isFollowed) return shadow.consistentLsn === undefined;
  return shadow.phase !== 'complete' && !(await isPreDataRestored(target, shadow.shadowId));
}

/**
 * Put the tables of a shadow that is unbound on record as they are now, in the place of what an earlier
 * attempt found. The publication is to be made again, since it can list columns. For who holds the lease.
 */
export async function recordDataset(
  target: Session,
  shadow: ShadowRecord,
  tables: readonly Table[],
): Promise<ShadowRecord> {
  const { shadowId } = shadow;
  const streamFormat = chooseStreamFormat(tables);
  await target.transaction(async () => {
    await target.execute('DELETE FROM understudy.relation WHERE shadow_id = $1', [shadowId]);
    await target.execute('DELETE FROM understudy.schema_version WHERE shadow_id = $1', [shadowId]);
    await insertRelations(target, shadowId, tables);
    await target.execute(
      `UPDATE understudy.shadow SET publication_oid = NULL, stream_format = $2 WHERE shadow_id = $1`,
      [shadowId, streamFormat],
    );
  });
  return { ...shadow, publicationOid: undefined, streamFormat };
}

/**
 * Once a slot or snapshot is there: what was copied with the columns of before would lack the newer ones'
 * values for ever, since they are neither in the copy nor in the changes behind it. Throws TABLE_CHANGED.
 */
export function requireUnchanged(tables: readonly Table[], now: readonly Table[]): void {
  const byOid = new Map(now.map((table) => [table.oid, table]));
  const changed = tables.find((table) => {
    const other = byOid.get(table.oid);
    return other === undefined || describeShape(table) !== describeShape(other);
  });
  if (changed === undefined) return;
  throw new OperatorError(
    'TABLE_CHANGED',
    `table ${quoteTable(changed)} was changed or dropped on the source before its snapshot was taken`,
    { detail: { relation: changed.oid } },
  );
}

function describeShape(table: Table): string {
  const { schema, name, key, replicaIdentity } = table;
  return JSON.stringify([schema, name, key, replicaIdentity, recordedColumns(table)]);
}

/** Whether the stream would describe the table as it is on record. */
export function hasRecordedShape(record: RelationRecord, table: Table): boolean {
  const columns = recordedColumns(table);
  return (
    columns.length === record.columns.length &&
    columns.every(
      ({ name, typeOid }, i) =>
        name === record.columns[i]?.name && typeOid === record.columns[i]?.typeOid,
    )
  );
}

/** Whether every table has its copy, and its chunks are fixed. */
export async function isCopied(target: Session, shadowId: string): Promise<boolean> {
  const records = await readRelationRecords(target, shadowId);
  const chunkings = await readChunking(target, shadowId);
  return records.every(
    ({ state, isInLane, sourceOid }) =>
      isInLane || state === 'stopped' || (state === 'copied' && chunkings.has(sourceOid)),
  );
}
