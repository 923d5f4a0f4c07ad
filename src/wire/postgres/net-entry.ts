import { quoteTable, type TableName } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** What a batch needs to know of a table: where its key is among the columns of the stream. */
export type KeyedTable = {
  /** pg_class.oid on the source. */
  readonly oid: number;
  readonly name: TableName;
  /** Indexes of the key columns, ascending; none means that a row is named by all of its values. */
  readonly keyIndexes: readonly number[];
  /** Whether the source publishes only a part of it; an INSERT may then lack values (trap 11). */
  readonly isFiltered?: boolean;
};

export function isKeyless(table: KeyedTable): boolean {
  return table.keyIndexes.length === 0;
}

export type NetKind = 'insert' | 'update' | 'delete';

/** What becomes of one row. For insert and update it names the new row, for delete a tuple with the key (or the row). */
export type NetEntry = {
  readonly kind: NetKind;
  readonly bytes: Buffer;
  readonly at: number;
  /** Columns (ascending, joined by commas) whose value is not known and must stay as it is. */
  readonly unchanged: string;
};

/** As when the source lets two rows have one key: the unique index that we name rows by is gone there. */
export function contradiction(table: KeyedTable, what: string): OperatorError {
  return new OperatorError(
    'TABLE_DIVERGED',
    `the changes of table ${quoteTable(table.name)} contradict each other: ${what}`,
    { detail: { relation: table.oid } },
  );
}
