import { type Chunking, WHOLE } from '#src/core/chunk.ts';
import { type Lsn, lsn } from '#src/core/lsn.ts';
import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import type { ApplyColumn, ApplyTable } from '#src/db/postgres/apply/apply-table.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import { isPublishedInPart } from '#src/shadow/publication.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';
import type { Relation } from '#src/wire/postgres/pgoutput.ts';

/** A table of the dataset as the follower applies it. */
export type FollowedTable = ApplyTable & {
  readonly record: RelationRecord;
  /** Changes of a transaction with a smaller commitLsn are in the copy already. */
  readonly startLsn: Lsn;
  readonly chunking: Chunking;
  /** Index of the leading key column among the stream's columns: what its chunk depends on. */
  readonly leadingIndex: number;
  /** uuid needs its text where the stream is binary. */
  readonly isLeadingUuid: boolean;
  /** Its changes are skipped by the main loop: it has stopped (trap 19), or a lane applies them. */
  readonly isStopped: boolean;
};

const UUID_OID = 2950;
/** Types below it are built in, and their modifiers mean the same on every server. */
export const FIRST_NORMAL_OID = 16_384;

/** Throws TABLE_CHANGED when the target does not have its columns; a stopped table needs none. */
export function followedTable(parts: {
  readonly record: RelationRecord;
  readonly targetColumns: ReadonlyMap<string, ApplyColumn>;
  readonly chunking: Chunking | undefined;
  readonly format: ValueFormat;
}): FollowedTable {
  const { record, targetColumns, format } = parts;
  const isStopped = record.state !== 'copied';
  const names = record.columns.map((column) => column.name);
  const columns = isStopped ? [] : names.map((name) => requireColumn(record, targetColumns, name));
  // Marks go by the plan's column; by another one, verification reads the table whole anyway.
  const isPlanned = parts.chunking?.column !== undefined && parts.chunking.column === record.key[0];
  const leadingIndex = names.indexOf(record.key[0] ?? '');
  return {
    oid: record.sourceOid,
    name: { schema: record.schema, name: record.name },
    columns,
    format,
    keyIndexes: record.key.map((name) => names.indexOf(name)).toSorted((a, b) => a - b),
    isFiltered: isPublishedInPart(record.published),
    record,
    startLsn: record.startLsn ?? lsn(0n),
    chunking: isPlanned && parts.chunking !== undefined ? parts.chunking : WHOLE,
    leadingIndex,
    isLeadingUuid: columns[leadingIndex]?.typeOid === UUID_OID,
    isStopped,
  };
}

function requireColumn(
  record: RelationRecord,
  targetColumns: ReadonlyMap<string, ApplyColumn>,
  name: string,
): ApplyColumn {
  const column = targetColumns.get(name);
  if (column !== undefined) return column;
  throw new OperatorError(
    'TABLE_CHANGED',
    `table ${quoteTable(record)} of the target has no column ${quoteIdentifier(name)}`,
    { detail: { relation: record.sourceOid } },
  );
}

/** How the stream's shape of a table differs from the one that was copied; undefined when it does not. */
export function describeShapeChange(table: FollowedTable, relation: Relation): string | undefined {
  const { record } = table;
  if (record.schema !== relation.schema || record.name !== relation.name) {
    return `it is called ${quoteTable(relation)} now`;
  }
  const count = Math.max(record.columns.length, relation.columns.length);
  for (let i = 0; i < count; i++) {
    const copied = record.columns[i];
    const streamed = relation.columns[i];
    if (copied === undefined) return `column ${quoteIdentifier(streamed?.name ?? '')} was added`;
    const name = quoteIdentifier(copied.name);
    if (streamed === undefined) return `column ${name} was dropped`;
    if (copied.name !== streamed.name) {
      return `column ${name} is gone or has another name (${quoteIdentifier(streamed.name)})`;
    }
    if (copied.typeOid !== streamed.typeOid) return `column ${name} has another type`;
    // The target would round or refuse what fits a wider column, such as numeric(12,4) into (10,2).
    const modifier = table.columns[i]?.typeModifier ?? streamed.typeModifier;
    if (streamed.typeOid < FIRST_NORMAL_OID && streamed.typeModifier !== modifier) {
      return `column ${name} has another type modifier than on the target`;
    }
    // Without a key every column names the row: under REPLICA IDENTITY FULL all of them are of the identity.
    if ((record.key.length === 0 || record.key.includes(copied.name)) && !streamed.isKey) {
      return `column ${name} is no longer of its replica identity`;
    }
  }
  return undefined;
}
