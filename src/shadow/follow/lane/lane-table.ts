import type { Chunking } from '#src/core/chunk.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { RelationShape } from '#src/core/schema-shape.ts';
import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import type { ApplyColumn } from '#src/db/postgres/apply/apply-table.ts';
import { OperatorError } from '#src/lib/errors.ts';
import {
  FIRST_NORMAL_OID,
  type FollowedTable,
  followedTable,
} from '#src/shadow/follow/apply/followed-table.ts';
import type { LoopTables } from '#src/shadow/follow/apply/followed-tables.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';
import type { Relation, RelationColumn } from '#src/wire/postgres/pgoutput.ts';

/**
 * The one table of a lane. Its shape is what each Relation message says, not what is on record: while it
 * was stopped both sides were changed. Columns are found on the target by name; what is not there, or is of
 * another type, cannot be applied, and TABLE_CHANGED stops the table again at its first change.
 */
export class LaneTable implements LoopTables {
  /** What is on record of it does not change while the lane is under way. */
  readonly isOutdated = false;
  readonly #parts: LaneTableParts;
  #relation: Relation | undefined;
  #table: FollowedTable | undefined;
  #refusal: string | undefined;
  /** Whether a change has come in the shape that the stream described last. */
  #isInUse = false;

  constructor(parts: LaneTableParts) {
    this.#parts = parts;
  }

  get all(): ReadonlyMap<number, FollowedTable> {
    const { record } = this.#parts;
    return new Map([[record.sourceOid, this.#table ?? this.#undescribed()]]);
  }

  relation(relation: Relation): boolean {
    const { record } = this.#parts;
    if (relation.oid !== record.sourceOid) return false;
    const isNew = JSON.stringify(relation) !== JSON.stringify(this.#relation);
    if (!isNew) return false;
    const hasTable = this.#table !== undefined;
    this.#relation = relation;
    this.#isInUse = false;
    this.#refusal = refusalOf(relation.columns, this.#parts.targetColumns);
    this.#table = this.#refusal === undefined ? this.#tableAs(relation) : undefined;
    return hasTable;
  }

  take(oid: number, commitLsn: Lsn): FollowedTable | undefined {
    const { record } = this.#parts;
    if (oid !== record.sourceOid || commitLsn < (record.startLsn ?? 0n)) return undefined;
    this.#isInUse = true;
    if (this.#table !== undefined) return this.#table;
    if (this.#refusal === undefined) {
      throw new OperatorError('PROTOCOL_VIOLATION', `relation ${oid} was not described`);
    }
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(record)} was changed on the source: ${this.#refusal}`,
      { detail: { relation: oid } },
    );
  }

  /**
   * Whether the target has what the table is made of at the hand-over, also what no row has shown: a column
   * that came with a default while the lane was under way. Throws TABLE_CHANGED.
   */
  requireShape(shape: RelationShape | undefined): void {
    const { record, targetColumns } = this.#parts;
    if (shape === undefined) return;
    const streamed = shape.columns
      .filter(({ generated }) => generated === '')
      .map(({ name, typeOid, typmod }) => ({ name, typeOid, typeModifier: typmod, isKey: false }));
    const refusal = refusalOf(streamed, targetColumns);
    if (refusal === undefined) return;
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(record)} was changed on the source: ${refusal}`,
      { detail: { relation: record.sourceOid } },
    );
  }

  /**
   * How the stream describes it now, for the record; undefined as long as it has not. A description that
   * no change has come in may be older than the record, which is the source's when the way back was asked
   * for: the stream describes a table only before a change of it.
   *
   * The stream gives columns no numbers. Those that came or were renamed meanwhile have theirs in `latest`, the
   * newest version at the hand-over; without it they would be taken for columns that the shadow leaves out.
   */
  shapeAt(latest: RelationShape | undefined): Pick<RelationRecord, 'columns' | 'key'> | undefined {
    if (this.#relation === undefined || !this.#isInUse) return undefined;
    const { record } = this.#parts;
    const known = [...record.columns, ...(latest?.columns ?? [])];
    const attnums = new Map(known.map(({ name, attnum }) => [name, attnum]));
    return {
      columns: this.#relation.columns.map(({ name, typeOid }) => ({
        name,
        typeOid,
        attnum: attnums.get(name) ?? 0,
      })),
      key: keyOf(record, this.#relation),
    };
  }

  /** Before the stream has said what it looks like, it has a name and a number. */
  #undescribed(): FollowedTable {
    const { record } = this.#parts;
    const table = followedTable({ ...this.#parts, record: { ...record, state: 'stopped' } });
    return { ...table, isStopped: false };
  }

  #tableAs(relation: Relation): FollowedTable {
    const { record, targetColumns, chunking, format } = this.#parts;
    const columns = relation.columns.map(({ name, typeOid }) => ({ name, typeOid, attnum: 0 }));
    return followedTable({
      record: { ...record, state: 'copied', columns, key: keyOf(record, relation) },
      targetColumns,
      chunking,
      format,
    });
  }
}

export type LaneTableParts = {
  /** Named as on the target. */
  readonly record: RelationRecord;
  readonly targetColumns: ReadonlyMap<string, ApplyColumn>;
  readonly chunking: Chunking | undefined;
  readonly format: ValueFormat;
};

function refusalOf(
  columns: readonly RelationColumn[],
  targetColumns: ReadonlyMap<string, ApplyColumn>,
): string | undefined {
  for (const { name, typeOid, typeModifier } of columns) {
    const target = targetColumns.get(name);
    const column = `column ${quoteIdentifier(name)}`;
    if (target === undefined) return `${column} is not on the target`;
    // The number of a type that somebody made says nothing on another server.
    const isBuiltIn = typeOid < FIRST_NORMAL_OID;
    if (isBuiltIn ? target.typeOid !== typeOid : target.typeOid < FIRST_NORMAL_OID) {
      return `${column} has another type than on the target`;
    }
    if (isBuiltIn && typeModifier !== target.typeModifier) {
      return `${column} has another type modifier than on the target`;
    }
  }
  return undefined;
}

/** What is on record is that of the source now; before it was changed, the stream had another. */
function keyOf(record: RelationRecord, relation: Relation): readonly string[] {
  const flagged = relation.columns.filter(({ isKey }) => isKey).map(({ name }) => name);
  const isFull = flagged.length === relation.columns.length;
  if (record.key.length > 0 && record.key.every((name) => flagged.includes(name)))
    return record.key;
  // Rows are named by all of their columns, or by those that the stream says.
  return isFull ? [] : flagged;
}
