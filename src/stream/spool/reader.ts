import { assert } from '#src/lib/assert.ts';

import { corruptError } from './files.ts';
import type { SpoolBlock, SpoolPosition } from './format.ts';
import { SegmentFile } from './segment-file.ts';
import type { Segments } from './segments.ts';

/**
 * Reads the spool in order, at its own pace, through the page cache; and again, for the extents of a
 * streamed transaction whose commit has arrived. Nothing is buffered beyond one read-ahead.
 *
 * A transaction, or a block of a stream, that a reset cut off is left out if the reset is known when its
 * beginning is read; so whoever starts again after meeting one does not meet it twice.
 *
 * The segment that a reader is in is not trimmed. A `relations` block at the start of a segment is
 * yielded only where reading begins: later ones repeat what was read.
 */
export class SpoolReader implements AsyncDisposable {
  readonly #segments: Segments;
  readonly #hold: Disposable;
  #segment: number;
  #offset = 0;
  #isFirst = true;
  #file: SegmentFile | undefined;
  #replayed: SegmentFile | undefined;

  constructor(segments: Segments, segment: number) {
    this.#segments = segments;
    this.#segment = segment;
    this.#hold = segments.hold(this);
  }

  get segment(): number {
    return this.#segment;
  }

  /** Where the next block begins. */
  get position(): SpoolPosition {
    return { segment: this.#segment, offset: this.#offset };
  }

  /** The next block, waiting for it. Rejects with `signal.reason` when aborted first. */
  async read(signal: AbortSignal): Promise<SpoolBlock> {
    for (;;) {
      signal.throwIfAborted();
      const block = await this.tryRead();
      if (block) return block;
      // Looked at again without an await between: a write after the look above is not missed.
      if (!this.#hasMore()) await this.#segments.changes.next(signal);
    }
  }

  /** The next block if it is written already. Throws SPOOL_CORRUPT, SPOOL_UNUSABLE. One call at a time. */
  async tryRead(): Promise<SpoolBlock | undefined> {
    for (;;) {
      if (this.#segments.broken) throw this.#segments.broken;
      if (!this.#hasMore()) return undefined;
      if (this.#offset >= this.#segments.writtenBytes(this.#segment)) {
        await this.#nextSegment();
        continue;
      }
      this.#file ??= await SegmentFile.open(this.#segments.directory, this.#segment);
      const block = await this.#blockOf(this.#file, this.#offset);
      this.#offset = block.next.offset;
      const isRepetition = block.position.offset === 0 && !this.#isFirst;
      this.#isFirst = false;
      const shown = isRepetition ? undefined : this.#withoutVoid(block);
      if (shown) return shown;
    }
  }

  /**
   * The block at a position that this reader has passed, for replaying a streamed transaction. Follow
   * `next` through a stream's block: from Stream Start to Stream Stop never crosses a segment.
   */
  async readAt(position: SpoolPosition): Promise<SpoolBlock> {
    if (this.#replayed?.segment !== position.segment) {
      await this.#replayed?.[Symbol.asyncDispose]();
      this.#replayed = undefined;
      this.#replayed = await SegmentFile.open(this.#segments.directory, position.segment);
    }
    return this.#blockOf(this.#replayed, position.offset);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#hold[Symbol.dispose]();
    await this.#file?.[Symbol.asyncDispose]();
    await this.#replayed?.[Symbol.asyncDispose]();
    this.#file = undefined;
    this.#replayed = undefined;
  }

  #hasMore(): boolean {
    return (
      this.#segments.broken !== undefined ||
      this.#segment < this.#segments.last ||
      this.#offset < this.#segments.writtenBytes(this.#segment)
    );
  }

  #withoutVoid(block: SpoolBlock): SpoolBlock | undefined {
    if (block.kind !== 'messages') return block;
    const { segment, offset } = block.position;
    const count = this.#segments.tracker.voidFrom(segment, offset);
    if (count === undefined) return block;
    return count === 0
      ? undefined
      : { ...block, count, offsets: block.offsets.subarray(0, 2 * count) };
  }

  async #nextSegment(): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
    this.#file = undefined;
    this.#segment += 1;
    this.#offset = 0;
  }

  async #blockOf(file: SegmentFile, offset: number): Promise<SpoolBlock> {
    const limit = this.#segments.writtenBytes(file.segment);
    assert(offset < limit, `block ${file.segment}:${offset} is not written yet`);
    const block = await file.readBlock(offset, limit);
    if (block) return block;
    throw this.#segments.broken ?? corruptError(file.path, offset, 'its checksum is wrong');
  }
}
