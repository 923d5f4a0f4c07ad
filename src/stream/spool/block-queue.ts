import type { Lsn } from '#src/core/lsn.ts';
import { assert } from '#src/lib/assert.ts';

import { type BlockKind, blockOfMessages, HEADER_BYTES, MESSAGE_HEADER_BYTES } from './format.ts';
import type { TransactionTracker } from './tracker.ts';

/**
 * The blocks that are to be written, in order, and where a new segment begins. In memory only.
 *
 * A segment ends once it has its size, but only where no transaction and no block of a stream is open:
 * so reading can begin at any segment.
 */
export type QueuedBlock = {
  readonly type: 'block';
  /** Header, not filled in yet, and body. */
  readonly buffer: Buffer;
  readonly kind: BlockKind;
  readonly count: number;
  readonly firstWal: bigint;
  readonly lastWal: bigint;
  readonly endLsn: Lsn;
  readonly commitEndLsn: Lsn;
  /** How many appends are in the file once this block is. */
  readonly appended: number;
};
export type QueuedSegment = { readonly type: 'segment'; readonly segment: number };

const SPARE_BLOCKS_MAX = 4;

export class BlockQueue {
  readonly #tracker: TransactionTracker;
  readonly #segmentBytes: number;
  readonly #blockBytes: number;
  readonly #items: (QueuedBlock | QueuedSegment)[] = [];
  readonly #spare: Buffer[] = [];
  /** The block being filled. */
  #block: Buffer;
  #view: DataView;
  #blockUsed = HEADER_BYTES;
  #blockCount = 0;
  #firstWal = 0n;
  #lastWal = 0n;
  /** Of the segment being appended to, the block being filled left out. */
  #segmentUsed = 0;
  #segment: number;
  #appended = 0;
  #bytes = 0;

  constructor(
    tracker: TransactionTracker,
    segment: number,
    sizes: { readonly segmentBytes: number; readonly blockBytes: number },
  ) {
    this.#tracker = tracker;
    this.#segmentBytes = sizes.segmentBytes;
    this.#blockBytes = sizes.blockBytes;
    this.#block = Buffer.allocUnsafeSlow(sizes.blockBytes);
    this.#view = viewOf(this.#block);
    this.#segment = segment;
    this.#beginSegment(segment);
  }

  /** Calls of append, reset and advance so far. */
  get appended(): number {
    return this.#appended;
  }

  /** Memory of the sealed blocks. */
  get bytes(): number {
    return this.#bytes;
  }

  get first(): QueuedBlock | QueuedSegment | undefined {
    return this.#items[0];
  }

  shift(): void {
    const item = this.#items.shift();
    if (item?.type !== 'block') return;
    const { byteLength } = item.buffer.buffer;
    this.#bytes -= byteLength;
    if (byteLength === this.#blockBytes && this.#spare.length < SPARE_BLOCKS_MAX) {
      this.#spare.push(Buffer.from(item.buffer.buffer));
    }
  }

  append(source: Buffer, start: number, end: number, walStart: bigint): void {
    // First: a block that is sealed for want of space must not claim the commit that comes after it.
    this.#makeRoom(end - start);
    if (this.#blockCount === 0) this.#tracker.enterBlock(this.#segmentUsed);
    const promoted = this.#tracker.observe(source, start, end);
    this.#put(source, start, end, walStart);
    this.#appended += 1;
    if (promoted) {
      this.seal();
      this.#enqueue('relations', blockOfMessages(promoted), promoted.length);
    }
    this.#cutIfLarge();
  }

  reset(): void {
    this.seal();
    this.#tracker.reset(this.#segmentUsed);
    this.#appended += 1;
    this.#enqueue('reset', blockOfMessages([]), 0);
    this.#cutIfLarge();
  }

  advance(position: Lsn): void {
    assert(this.#tracker.isAtBoundary, 'a keepalive position is between transactions');
    if (position <= this.#tracker.contiguousEnd) return;
    this.seal();
    this.#tracker.advance(position);
    this.#appended += 1;
    this.#enqueue('position', blockOfMessages([]), 0);
    this.#cutIfLarge();
  }

  /** Queue the block being filled, if anything is in it. */
  seal(): void {
    if (this.#blockCount === 0) return;
    this.#enqueue('messages', this.#block.subarray(0, this.#blockUsed), this.#blockCount);
    this.#fill(this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#blockBytes));
    this.#blockUsed = HEADER_BYTES;
    this.#blockCount = 0;
    this.#firstWal = 0n;
    this.#lastWal = 0n;
  }

  #makeRoom(messageBytes: number): void {
    const needed = MESSAGE_HEADER_BYTES + messageBytes;
    if (this.#blockUsed + needed <= this.#block.length) return;
    this.seal();
    const alone = HEADER_BYTES + needed;
    if (alone > this.#block.length) this.#fill(Buffer.allocUnsafeSlow(alone));
  }

  #put(source: Buffer, start: number, end: number, walStart: bigint): void {
    const at = this.#blockUsed;
    this.#view.setUint32(at, end - start);
    this.#view.setBigUint64(at + 4, walStart);
    copyBytes(source, start, end, this.#block, at + MESSAGE_HEADER_BYTES);
    if (this.#blockCount === 0) this.#firstWal = walStart;
    this.#lastWal = walStart;
    this.#blockCount += 1;
    this.#blockUsed = at + MESSAGE_HEADER_BYTES + end - start;
  }

  #fill(block: Buffer): void {
    this.#block = block;
    this.#view = viewOf(block);
  }

  #enqueue(kind: BlockKind, buffer: Buffer, count: number): void {
    const isMessages = kind === 'messages';
    this.#items.push({
      type: 'block',
      buffer,
      kind,
      count,
      firstWal: isMessages ? this.#firstWal : 0n,
      lastWal: isMessages ? this.#lastWal : 0n,
      endLsn: this.#tracker.contiguousEnd,
      commitEndLsn: this.#tracker.commitEnd,
      appended: this.#appended,
    });
    this.#bytes += buffer.buffer.byteLength;
    this.#segmentUsed += buffer.length;
  }

  #cutIfLarge(): void {
    if (this.#segmentUsed + this.#blockUsed < this.#segmentBytes) return;
    if (!this.#tracker.isAtBoundary) return;
    this.seal();
    this.#beginSegment(this.#segment + 1);
  }

  #beginSegment(segment: number): void {
    this.#segment = segment;
    this.#segmentUsed = 0;
    this.#tracker.beginSegment(segment);
    this.#items.push({ type: 'segment', segment });
    const relations = this.#tracker.relations();
    this.#enqueue('relations', blockOfMessages(relations), relations.length);
  }
}

/** Its accessors are compiled inline, unlike those of Buffer. */
function viewOf(block: Buffer): DataView {
  return new DataView(block.buffer, block.byteOffset, block.length);
}

/** A loop beats the native copy for short messages. */
function copyBytes(source: Buffer, start: number, end: number, target: Buffer, at: number): void {
  if (end - start >= 48) {
    source.copy(target, at, start, end);
    return;
  }
  for (let from = start, to = at; from < end; from++, to++) target[to] = source[from] ?? 0;
}
