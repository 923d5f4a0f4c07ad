import { type Chunking, WHOLE } from '#src/core/chunk.ts';
import { type Lsn, lsn } from '#src/core/lsn.ts';
import { quoteTable } from '#src/core/table.ts';
import type { ApplyColumn, ApplyTable } from '#src/db/postgres/apply-table.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
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
  /** Its changes are skipped (trap 19). */
  readonly isStopped: boolean;
};

const UUID_OID = 2950;

export function followedTable(parts: {
  readonly record: RelationRecord;
  readonly targetColumns: ReadonlyMap<string, ApplyColumn>;
  readonly chunking: Chunking | undefined;
  readonly format: ValueFormat;
}): FollowedTable {
  const { record, targetColumns, format } = parts;
  const names = record.columns.map((column) => column.name);
  const keyIndexes = record.key.map((name) => names.indexOf(name));
  const columns = names.map((name) => {
    const column = targetColumns.get(name);
    if (column !== undefined) return column;
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(record)} of the target has no column ${name}`,
      { detail: { relation: record.sourceOid } },
    );
  });
  const leadingIndex = names.indexOf(record.key[0] ?? '');
  return {
    oid: record.sourceOid,
    name: { schema: record.schema, name: record.name },
    columns,
    format,
    keyIndexes: keyIndexes.toSorted((a, b) => a - b),
    record,
    startLsn: record.startLsn ?? lsn(0n),
    chunking: parts.chunking ?? WHOLE,
    leadingIndex,
    isLeadingUuid: columns[leadingIndex]?.typeOid === UUID_OID,
    isStopped: record.state === 'stopped',
  };
}

/** How the stream's shape of a table differs from the one that was copied; undefined when it does not. */
export function describeShapeChange(
  record: RelationRecord,
  relation: Relation,
): string | undefined {
  if (record.schema !== relation.schema || record.name !== relation.name) {
    return `it is called ${quoteTable(relation)} now`;
  }
  const columns = Math.max(record.columns.length, relation.columns.length);
  for (let i = 0; i < columns; i++) {
    const copied = record.columns[i];
    const streamed = relation.columns[i];
    if (copied === undefined) return `column ${streamed?.name} was added`;
    if (streamed === undefined) return `column ${copied.name} was dropped`;
    if (copied.name !== streamed.name) {
      return `column ${copied.name} is gone or has another name (${streamed.name})`;
    }
    if (copied.typeOid !== streamed.typeOid) return `column ${copied.name} has another type`;
  }
  return undefined;
}
