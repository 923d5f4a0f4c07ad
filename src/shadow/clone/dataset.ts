import { quoteTable, type Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { recordedColumns, type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';
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
