import { unlink } from 'node:fs/promises';

import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

import { fileError, segmentPath } from './files.ts';
import { Changes } from './signals.ts';
import type { TransactionTracker } from './tracker.ts';

export const FIRST_SEGMENT = 1;

/** What the writer, the readers and trimming share: which segments there are and how far they are written. */
export class Segments {
  readonly directory: string;
  readonly tracker: TransactionTracker;
  /** Something was written, trimmed or broken. */
  readonly changes = new Changes();
  /** Set once the spool cannot be written any more in this process; readers stop too. */
  broken: Error | undefined;
  readonly #startLsn: Lsn;
  readonly #failpoints: Failpoints;
  readonly #writtenBytes = new Map<number, number>();
  readonly #readers = new Set<{ readonly segment: number }>();
  #bytes = 0;
  #last = FIRST_SEGMENT - 1;
  #lastDurable = FIRST_SEGMENT - 1;
  #isTrimming = false;

  constructor(
    directory: string,
    tracker: TransactionTracker,
    startLsn: Lsn,
    failpoints: Failpoints,
  ) {
    this.directory = directory;
    this.#startLsn = startLsn;
    this.#failpoints = failpoints;
    this.tracker = tracker;
  }

  /** Every transaction that ended after it is here, as far as it was received. */
  get startLsn(): Lsn {
    const oldest = this.tracker.segments.values().next().value;
    if (oldest === undefined || oldest.segment === FIRST_SEGMENT) return this.#startLsn;
    return oldest.commitEndBefore > this.#startLsn ? oldest.commitEndBefore : this.#startLsn;
  }

  /** What is kept for a reader from `from` that one from `until` does not need. */
  bytesBetween(from: Lsn, until: Lsn): number {
    const [first, end] = [this.tracker.neededFrom(from), this.tracker.neededFrom(until)];
    let bytes = 0;
    for (const [segment, written] of this.#writtenBytes) {
      if (segment >= first && segment < end) bytes += written;
    }
    return bytes;
  }

  /** On disk, over all segments. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The segment that is being written. */
  get last(): number {
    return this.#last;
  }

  writtenBytes(segment: number): number {
    const bytes = this.#writtenBytes.get(segment);
    assert(bytes !== undefined, `segment ${segment} is not in the spool`);
    return bytes;
  }

  /** Record how many bytes of a segment hold whole blocks; readers may read these. */
  written(segment: number, bytes: number): void {
    this.#bytes += bytes - (this.#writtenBytes.get(segment) ?? 0);
    this.#writtenBytes.set(segment, bytes);
    this.#last = segment;
    this.changes.notify();
  }

  /**
   * Something of this segment is on disk for good, of every earlier one all. Trimming leaves the newest of
   * these: after a power loss nothing else says how far the source was confirmed.
   */
  madeDurable(segment: number): void {
    this.#lastDurable = segment;
  }

  /** Keep what `reader.segment` names, and everything after it, until the reader is released. */
  hold(reader: { readonly segment: number }): Disposable {
    this.#readers.add(reader);
    return { [Symbol.dispose]: () => void this.#readers.delete(reader) };
  }

  /**
   * The segment where a reader must start that has applied everything up to `applied`. Throws
   * SPOOL_MISSING when something after it was trimmed: the target has lost what it had confirmed.
   */
  startFor(applied: Lsn): number {
    const { startLsn } = this;
    if (applied < startLsn) {
      throw new OperatorError(
        'SPOOL_MISSING',
        `the target is at ${formatLsn(applied)}, but the spool in ${this.directory} begins at ${formatLsn(startLsn)}`,
      );
    }
    return Math.min(this.#last, this.tracker.neededFrom(applied));
  }

  /** Remove the segments that nobody needs any more; see Spool.trim. */
  async trim(flushed: Lsn): Promise<void> {
    if (this.#isTrimming) return;
    this.#isTrimming = true;
    try {
      const readers = [...this.#readers].map((reader) => reader.segment);
      const needed = this.tracker.neededFrom(flushed);
      const keepFrom = Math.min(this.#lastDurable, needed, ...readers);
      // Ascending, so that a crash leaves no gap.
      for (const segment of this.#writtenBytes.keys()) {
        if (segment >= keepFrom) break;
        await this.#remove(segment);
      }
    } finally {
      this.#isTrimming = false;
    }
  }

  async #remove(segment: number): Promise<void> {
    const path = segmentPath(this.directory, segment);
    this.#failpoints.hit('spool.beforeTrim');
    await unlink(path).catch((error: unknown) => {
      throw fileError(path, 'remove', error);
    });
    this.#bytes -= this.writtenBytes(segment);
    this.#writtenBytes.delete(segment);
    this.#failpoints.hit('spool.afterTrim');
    this.tracker.segments.delete(segment);
    this.changes.notify();
  }
}
