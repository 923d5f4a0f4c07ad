import { createHash } from 'node:crypto';

import { contradiction, type KeyedTable, type NetEntry } from './net-entry.ts';
import { skipTuple } from './pgoutput.ts';
import { mergeTuples, unchangedColumns } from './row-tuple.ts';

/**
 * The net changes of a table without a key (REPLICA IDENTITY FULL): a multiset. An old row leaves, a new
 * row comes, and what leaves and comes with the same bytes cancels, however many there are of it. What
 * is left over is deleted by content and inserted; in this order, so that a unique value which one row
 * gave up is free for the other.
 */
export class KeylessChanges<T extends KeyedTable> {
  readonly table: T;
  /** How many more (or, below zero, fewer) there are of each row. */
  readonly #balances = new Map<
    string,
    { count: number; readonly bytes: Buffer; readonly at: number }
  >();
  /** Bytes of the tuples that were put together from two. */
  mergedBytes = 0;

  constructor(table: T) {
    this.table = table;
  }

  *entries(): Generator<NetEntry> {
    for (const { count, bytes, at } of this.#balances.values()) {
      const kind = count < 0 ? 'delete' : 'insert';
      for (let i = Math.abs(count); i > 0; i--) yield { kind, bytes, at, unchanged: '' };
    }
  }

  insert(bytes: Buffer, at: number): void {
    this.#count(1, bytes, at);
  }

  delete(bytes: Buffer, at: number): void {
    this.#count(-1, bytes, at);
  }

  /**
   * The old row is whole under FULL, values that are kept out of line included; in the new one those that
   * were not touched are missing.
   */
  update(bytes: Buffer, before: number, after: number): void {
    this.#count(-1, bytes, before);
    if (unchangedColumns(bytes, after) === '') {
      this.#count(1, bytes, after);
      return;
    }
    const merged = mergeTuples({ bytes, at: after }, { bytes, at: before });
    this.mergedBytes += merged.length;
    this.#count(1, merged, 0);
  }

  #count(change: 1 | -1, bytes: Buffer, at: number): void {
    if (unchangedColumns(bytes, at) !== '') {
      throw contradiction(this.table, 'a row without all of its values');
    }
    const image = imageOf(bytes, at);
    const balance = this.#balances.get(image);
    if (balance === undefined) this.#balances.set(image, { count: change, bytes, at });
    else if (balance.count + change === 0) this.#balances.delete(image);
    else balance.count += change;
  }
}

/** Longer rows are told apart by their digest: a batch would be in memory twice. */
const IMAGE_BYTES_MAX = 256;

/** The row as one value fit for a Map. */
function imageOf(bytes: Buffer, at: number): string {
  const end = skipTuple(bytes, at);
  if (end - at <= IMAGE_BYTES_MAX) return bytes.toString('latin1', at, end);
  // Never a short row, too: one that began with these two bytes would have 8,992 columns.
  return `# ${createHash('sha256').update(bytes.subarray(at, end)).digest('base64')}`;
}
