import { quoteTable } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { KeyedChanges, keyOf } from './keyed-changes.ts';
import { KeylessChanges } from './keyless-changes.ts';
import { contradiction, isKeyless, type KeyedTable } from './net-entry.ts';
import { columnOffsets, isWholeRow, readRowTuples, skipTuple, TAG, VALUE } from './pgoutput.ts';
import { mergeTuples, unchangedColumns } from './row-tuple.ts';

/**
 * A batch of row changes, compacted by key: what the rows of each table become in the end.
 *
 *     earlier \ later |  insert   update            delete
 *     nothing         |  insert   update            delete
 *     insert          |  –        insert, merged    nothing
 *     update          |  –        update, merged    delete
 *     delete          |  update   –                 –
 *
 * `–` cannot happen in a stream that keeps its keys unique; it throws TABLE_DIVERGED. Merging fills an unchanged TOAST value from
 * the earlier image, so that it is never lost (trap 11). A change of the key is an update by the old
 * key and keeps its place: what came before is one step, it is a step of its own, what follows is
 * another. A TRUNCATE likewise.
 *
 * A table without a key is a multiset of rows (see KeylessChanges). No table's rows depend on another's,
 * so its changes are one step however many steps the moved keys of others make; only a TRUNCATE parts them.
 *
 * Tuples are not copied: an entry is a buffer and an offset, and the buffers live as long as the batch.
 * The changes are also kept in their order, for the replay that a unique hazard needs.
 */

/** A change as it came: offsets of the old key (or row) and of the new row, -1 where there is none. */
export type RowChange<T> = {
  readonly tag: number;
  readonly table: T;
  readonly bytes: Buffer;
  readonly before: number;
  readonly after: number;
};

export type Truncation<T> = {
  readonly tag: typeof TAG.truncate;
  readonly tables: readonly T[];
};

/** The net changes of one table. */
export type NetChanges<T extends KeyedTable> = KeyedChanges<T> | KeylessChanges<T>;

export type Step<T extends KeyedTable> =
  | { readonly kind: 'net'; readonly tables: ReadonlyMap<number, NetChanges<T>> }
  | { readonly kind: 'exact'; readonly changes: readonly RowChange<T>[] }
  | { readonly kind: 'truncate'; readonly tables: readonly T[] };

export class ChangeBatch<T extends KeyedTable> {
  readonly #steps: Step<T>[] = [];
  readonly #history: (RowChange<T> | Truncation<T>)[] = [];
  #keyed: Map<number, KeyedChanges<T>> | undefined;
  #keyless: Map<number, KeylessChanges<T>> | undefined;
  #moves: RowChange<T>[] = [];
  #rows = 0;
  #bytes = 0;

  /** Changes taken in, before compaction. */
  get rows(): number {
    return this.#rows;
  }

  /** Message bytes taken in, and those of merged tuples: a long value may be copied by each update. */
  get bytes(): number {
    return this.#bytes;
  }

  /** In this order, the steps give what the history gives. */
  get steps(): readonly Step<T>[] {
    return this.#steps;
  }

  /** Every change in the order of the source, but the rows of tables without a key, which only steps have. */
  get history(): readonly (RowChange<T> | Truncation<T>)[] {
    return this.#history;
  }

  /** I, U or D: `body` is the offset of the relation's OID, `end` the end of the message. */
  addRow(table: T, message: { tag: number; bytes: Buffer; body: number; end: number }): void {
    const { tag, body, end } = message;
    const tuples = readRowTuples(tag, message.bytes, body);
    this.#rows += 1;
    this.#bytes += end - body;
    if (isKeyless(table)) this.#addToKeyless(table, message, tuples);
    else this.#addToKeyed(table, { tag, bytes: message.bytes, ...tuples });
  }

  addTruncate(tables: readonly T[]): void {
    this.#history.push({ tag: TAG.truncate, tables });
    this.#keyed = undefined;
    this.#keyless = undefined;
    this.#steps.push({ kind: 'truncate', tables });
    this.#rows += 1;
  }

  #addToKeyed(table: T, row: Omit<RowChange<T>, 'table'>): void {
    const change = withKey({ ...row, table });
    const { tag, bytes, before, after } = change;
    this.#history.push(change);
    if (tag === TAG.insert) {
      if (table.isFiltered === true) requireWhole(table, bytes, after);
      this.#keyedChanges(table).insert(keyOf(table, bytes, after), bytes, after);
    } else if (tag === TAG.delete) {
      this.#keyedChanges(table).delete(keyOf(table, bytes, before), bytes, before);
    } else if (before >= 0 && changesKey(table, bytes, before, after)) {
      this.#exact(change);
    } else {
      const changes = this.#keyedChanges(table);
      const mergedBytes = changes.mergedBytes;
      changes.update(keyOf(table, bytes, after), bytes, after);
      this.#bytes += changes.mergedBytes - mergedBytes;
    }
  }

  #addToKeyless(
    table: T,
    { tag, bytes, body }: { tag: number; bytes: Buffer; body: number },
    { before, after }: { before: number; after: number },
  ): void {
    const changes = this.#keylessChanges(table);
    if (tag === TAG.insert) {
      changes.insert(bytes, after);
      return;
    }
    if (!isWholeRow(bytes, body)) throw contradiction(table, 'a change without its old row');
    if (tag === TAG.delete) {
      changes.delete(bytes, before);
    } else {
      const mergedBytes = changes.mergedBytes;
      changes.update(bytes, before, after);
      this.#bytes += changes.mergedBytes - mergedBytes;
    }
  }

  #keyedChanges(table: T): KeyedChanges<T> {
    if (this.#keyed === undefined) {
      this.#keyed = new Map();
      this.#steps.push({ kind: 'net', tables: this.#keyed });
    }
    let changes = this.#keyed.get(table.oid);
    if (changes === undefined) {
      changes = new KeyedChanges(table);
      this.#keyed.set(table.oid, changes);
    }
    return changes;
  }

  #keylessChanges(table: T): KeylessChanges<T> {
    if (this.#keyless === undefined) {
      this.#keyless = new Map();
      this.#steps.push({ kind: 'net', tables: this.#keyless });
    }
    let changes = this.#keyless.get(table.oid);
    if (changes === undefined) {
      changes = new KeylessChanges(table);
      this.#keyless.set(table.oid, changes);
    }
    return changes;
  }

  #exact(change: RowChange<T>): void {
    this.#keyed = undefined;
    if (this.#steps.at(-1)?.kind !== 'exact') {
      this.#moves = [];
      this.#steps.push({ kind: 'exact', changes: this.#moves });
    }
    this.#moves.push(change);
  }
}

/**
 * The change with a whole key in its new row. A key value that is kept out of line and was not touched
 * is `unchanged` there; the old key then carries it, and nothing but the key may be taken from it.
 */
function withKey<T extends KeyedTable>(change: RowChange<T>): RowChange<T> {
  const { table, bytes, before, after } = change;
  if (before < 0 || after < 0) return change;
  const isUnchanged = (offset: number): boolean => bytes[offset] === VALUE.unchanged;
  if (!columnOffsets(bytes, after, table.keyIndexes).some(isUnchanged)) return change;
  const old = bytes.subarray(before, skipTuple(bytes, before));
  const current = mergeTuples({ bytes, at: after }, { bytes, at: before }, table.keyIndexes);
  return { ...change, bytes: Buffer.concat([old, current]), before: 0, after: old.length };
}

/**
 * An UPDATE that brings a row into the row filter arrives as an INSERT, without the values that are kept
 * out of line and were not touched: the old row never was on the target (trap 11).
 */
function requireWhole(table: KeyedTable, bytes: Buffer, at: number): void {
  if (unchangedColumns(bytes, at) === '') return;
  throw new OperatorError(
    'ROW_INCOMPLETE',
    `an UPDATE brought a row into the row filter of table ${quoteTable(table.name)}, and the stream carries only a part of it`,
    { detail: { relation: table.oid, waitsFor: 'reseed' } },
  );
}

/** Whether an update that carries its old key really moves the row to another one. */
function changesKey(table: KeyedTable, bytes: Buffer, before: number, after: number): boolean {
  return keyOf(table, bytes, before) !== keyOf(table, bytes, after);
}
