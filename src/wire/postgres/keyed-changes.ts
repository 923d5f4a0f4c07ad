import { contradiction, type KeyedTable, type NetEntry, type NetKind } from './net-entry.ts';
import { nextColumn, VALUE } from './pgoutput.ts';
import { mergeTuples, unchangedColumns } from './row-tuple.ts';

/** Entries change in place: a hot row is updated thousands of times in a batch. */
type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

/** A short integer where the key is one in binary, which a Map finds faster than its bytes as a string. */
type Key = string | number;

/** The net changes of one table with a key: at most one entry a key. */
export class KeyedChanges<T extends KeyedTable> {
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
    if (entry.kind !== 'delete') throw contradiction(this.table, 'insert of a key that is there');
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
    if (entry.kind === 'delete') throw contradiction(this.table, 'update of a key that is gone');
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
      throw contradiction(this.table, 'delete of a key that is gone');
    }
  }
}

function replace(entry: Mutable<NetEntry>, kind: NetKind, bytes: Buffer, at: number): void {
  entry.kind = kind;
  entry.bytes = bytes;
  entry.at = at;
  entry.unchanged = '';
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
      throw contradiction(table, 'a key without a value');
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
