import { quoteTable, type TableName } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { columnOffsets, nextColumn, readRowTuples, skipTuple, TAG, VALUE } from './pgoutput.ts';

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
 * Tuples are not copied: an entry is a buffer and an offset, and the buffers live as long as the batch.
 * The changes are also kept in their order, for the replay that a unique hazard needs.
 */

/** What a batch needs to know of a table: where its key is among the columns of the stream. */
export type KeyedTable = {
  /** pg_class.oid on the source. */
  readonly oid: number;
  readonly name: TableName;
  /** Indexes of the key columns, ascending. */
  readonly keyIndexes: readonly number[];
};

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

export type Step<T extends KeyedTable> =
  | { readonly kind: 'net'; readonly tables: ReadonlyMap<number, NetChanges<T>> }
  | { readonly kind: 'exact'; readonly changes: readonly RowChange<T>[] }
  | { readonly kind: 'truncate'; readonly tables: readonly T[] };

export type NetKind = 'insert' | 'update' | 'delete';

/** What becomes of one row. For insert and update it names the new row, for delete a tuple with the key. */
export type NetEntry = {
  readonly kind: NetKind;
  readonly bytes: Buffer;
  readonly at: number;
  /** Columns (ascending, joined by commas) whose value is not known and must stay as it is. */
  readonly unchanged: string;
};

/** Entries change in place: a hot row is updated thousands of times in a batch. */
type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

/** A short integer where the key is one in binary, which a Map finds faster than its bytes as a string. */
type Key = string | number;

/** The net changes of one table: at most one entry a key. */
export class NetChanges<T extends KeyedTable> {
  readonly table: T;
  readonly #entries = new Map<Key, Mutable<NetEntry>>();
  /** Bytes of the tuples that were put together from two. */
  mergedBytes = 0;

  constructor(table: T) {
    this.table = table;
  }

  get size(): number {
    return this.#entries.size;
  }

  entries(): IterableIterator<NetEntry> {
    return this.#entries.values();
  }

  insert(key: Key, bytes: Buffer, at: number): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      this.#entries.set(key, { kind: 'insert', bytes, at, unchanged: '' });
      return;
    }
    if (entry.kind !== 'delete') throw impossible(this.table, 'insert of a key that is there');
    // Deleted and inserted again: the row exists on the target, and every column is known.
    replace(entry, 'update', bytes, at);
  }

  update(key: Key, bytes: Buffer, at: number): void {
    const entry = this.#entries.get(key);
    const unchanged = unchangedColumns(bytes, at);
    if (entry === undefined) {
      this.#entries.set(key, { kind: 'update', bytes, at, unchanged });
      return;
    }
    if (entry.kind === 'delete') throw impossible(this.table, 'update of a key that is gone');
    if (unchanged === '') {
      replace(entry, entry.kind, bytes, at);
      return;
    }
    const merged = mergeTuples({ bytes, at }, entry);
    this.mergedBytes += merged.length;
    replace(entry, entry.kind, merged, 0);
    entry.unchanged = unchangedColumns(merged, 0);
  }

  delete(key: Key, bytes: Buffer, at: number): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      this.#entries.set(key, { kind: 'delete', bytes, at, unchanged: '' });
    } else if (entry.kind === 'insert') {
      this.#entries.delete(key);
    } else if (entry.kind === 'update') {
      replace(entry, 'delete', bytes, at);
    } else {
      throw impossible(this.table, 'delete of a key that is gone');
    }
  }
}

function replace(entry: Mutable<NetEntry>, kind: NetKind, bytes: Buffer, at: number): void {
  entry.kind = kind;
  entry.bytes = bytes;
  entry.at = at;
  entry.unchanged = '';
}

export class ChangeBatch<T extends KeyedTable> {
  readonly #steps: Step<T>[] = [];
  readonly #history: (RowChange<T> | Truncation<T>)[] = [];
  #net: Map<number, NetChanges<T>> | undefined;
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

  /** Every change in the order of the source. */
  get history(): readonly (RowChange<T> | Truncation<T>)[] {
    return this.#history;
  }

  /** I, U or D: `body` is the offset of the relation's OID, `end` the end of the message. */
  addRow(table: T, message: { tag: number; bytes: Buffer; body: number; end: number }): void {
    const { tag, body, end } = message;
    const tuples = readRowTuples(tag, message.bytes, body);
    const { before: old, after: current } = tuples;
    const change = withKey({ tag, table, bytes: message.bytes, before: old, after: current });
    const { bytes, before, after } = change;
    this.#history.push(change);
    this.#rows += 1;
    this.#bytes += end - body;

    if (tag === TAG.insert) {
      this.#changesOf(table).insert(keyOf(table, bytes, after), bytes, after);
    } else if (tag === TAG.delete) {
      this.#changesOf(table).delete(keyOf(table, bytes, before), bytes, before);
    } else if (before >= 0 && changesKey(table, bytes, before, after)) {
      this.#exact(change);
    } else {
      const changes = this.#changesOf(table);
      const mergedBytes = changes.mergedBytes;
      changes.update(keyOf(table, bytes, after), bytes, after);
      this.#bytes += changes.mergedBytes - mergedBytes;
    }
  }

  addTruncate(tables: readonly T[]): void {
    this.#history.push({ tag: TAG.truncate, tables });
    this.#net = undefined;
    this.#steps.push({ kind: 'truncate', tables });
    this.#rows += 1;
  }

  #changesOf(table: T): NetChanges<T> {
    if (this.#net === undefined) {
      this.#net = new Map();
      this.#steps.push({ kind: 'net', tables: this.#net });
    }
    let changes = this.#net.get(table.oid);
    if (changes === undefined) {
      changes = new NetChanges(table);
      this.#net.set(table.oid, changes);
    }
    return changes;
  }

  #exact(change: RowChange<T>): void {
    this.#net = undefined;
    if (this.#steps.at(-1)?.kind !== 'exact') {
      this.#moves = [];
      this.#steps.push({ kind: 'exact', changes: this.#moves });
    }
    this.#moves.push(change);
  }
}

/** The key as one value fit for a Map; equal iff every key column has the same bytes. */
export function keyOf(table: KeyedTable, bytes: Buffer, at: number): Key {
  let key = '';
  let next = at + 2;
  let column = 0;
  for (const index of table.keyIndexes) {
    for (; column < index; column++) next = nextColumn(bytes, next);
    const kind = bytes[next];
    if (kind !== VALUE.text && kind !== VALUE.binary) {
      throw impossible(table, 'a key without a value');
    }
    if (kind === VALUE.binary && table.keyIndexes.length === 1) {
      const integer = integerAt(bytes, next + 1);
      if (integer !== undefined) return integer;
    }
    // The length in front keeps ('a', 'bc') and ('ab', 'c') apart.
    key += bytes.toString('latin1', next + 1, nextColumn(bytes, next));
  }
  return key;
}

const HIGH_MAX = 0x10_0000; // 2^20: with 32 bits more still an exact number

/**
 * A value of four or eight bytes as the integer that these bytes are, if a number holds it. Those of four
 * bytes lie between the integers, so that \x00000001 and \x0000000000000001, two bytea, stay apart.
 */
function integerAt(bytes: Buffer, at: number): number | undefined {
  const length = bytes.readUInt32BE(at);
  if (length === 4) return bytes.readInt32BE(at + 4) + 0.5;
  if (length !== 8) return undefined;
  const high = bytes.readInt32BE(at + 4);
  if (high < -HIGH_MAX || high >= HIGH_MAX) return undefined;
  return high * 0x1_0000_0000 + bytes.readUInt32BE(at + 8);
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

/** Whether an update that carries its old key really moves the row to another one. */
function changesKey(table: KeyedTable, bytes: Buffer, before: number, after: number): boolean {
  return keyOf(table, bytes, before) !== keyOf(table, bytes, after);
}

/** The indexes of unchanged TOAST values in the tuple at `at`, such as `2,5`; usually none. */
export function unchangedColumns(bytes: Buffer, at: number): string {
  const columns = bytes.readUInt16BE(at);
  let found = '';
  let next = at + 2;
  for (let i = 0; i < columns; i++) {
    if (bytes[next] === VALUE.unchanged) found += found === '' ? `${i}` : `,${i}`;
    next = nextColumn(bytes, next);
  }
  return found;
}

type Tuple = { readonly bytes: Buffer; readonly at: number };

/** The later tuple, with its unchanged values (of `only` these columns) taken from the earlier one. */
function mergeTuples(later: Tuple, earlier: Tuple, only?: readonly number[]): Buffer {
  const columns = later.bytes.readUInt16BE(later.at);
  const parts = [later.bytes.subarray(later.at, later.at + 2)];
  let next = later.at + 2;
  let old = earlier.at + 2;
  for (let i = 0; i < columns; i++) {
    const nextEnd = nextColumn(later.bytes, next);
    const oldEnd = nextColumn(earlier.bytes, old);
    parts.push(
      later.bytes[next] === VALUE.unchanged && (only === undefined || only.includes(i))
        ? earlier.bytes.subarray(old, oldEnd)
        : later.bytes.subarray(next, nextEnd),
    );
    next = nextEnd;
    old = oldEnd;
  }
  return Buffer.concat(parts);
}

/** The source lets two rows have one key: the unique index that we name rows by is gone there. */
function impossible(table: KeyedTable, what: string): OperatorError {
  return new OperatorError(
    'TABLE_DIVERGED',
    `the changes of table ${quoteTable(table.name)} contradict each other: ${what}`,
    { detail: { relation: table.oid } },
  );
}
