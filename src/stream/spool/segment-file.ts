import { open, type FileHandle } from 'node:fs/promises';

import { fileError, segmentPath } from './files.ts';
import {
  blockBytesAt,
  HEADER_BYTES,
  messageOffsets,
  parseBlockHeader,
  type BlockHeader,
  type SpoolBlock,
} from './format.ts';

/** Read ahead in pieces of this size; a larger block is read in one piece of its own. */
const READ_BYTES = 1024 * 1024;

/** A segment that is read, block by block from any offset, ahead while the offsets ascend. */
export class SegmentFile implements AsyncDisposable {
  readonly path: string;
  readonly segment: number;
  readonly #handle: FileHandle;
  #ahead: Buffer = Buffer.alloc(0);
  #aheadAt = 0;

  private constructor(path: string, segment: number, handle: FileHandle) {
    this.path = path;
    this.segment = segment;
    this.#handle = handle;
  }

  static async open(directory: string, segment: number): Promise<SegmentFile> {
    const path = segmentPath(directory, segment);
    try {
      return new SegmentFile(path, segment, await open(path, 'r'));
    } catch (error) {
      throw fileError(path, 'open', error);
    }
  }

  async size(): Promise<number> {
    try {
      return (await this.#handle.stat()).size;
    } catch (error) {
      throw fileError(this.path, 'read', error);
    }
  }

  /** The block at `offset`, or undefined when no whole and undamaged one ends at or before `limit`. */
  async readBlock(offset: number, limit: number): Promise<SpoolBlock | undefined> {
    if (limit - offset < HEADER_BYTES) return undefined;
    const start = await this.read(offset, HEADER_BYTES, limit);
    const blockBytes = blockBytesAt(start, 0);
    if (blockBytes === undefined || offset + blockBytes > limit) return undefined;
    const bytes = await this.read(offset, blockBytes, limit);
    const header = parseBlockHeader(bytes);
    return header ? this.#block(offset, bytes, header) : undefined;
  }

  /** `length` bytes at `offset`, fewer only at the end of the file. Reads ahead, never past `limit`. */
  async read(offset: number, length: number, limit: number): Promise<Buffer> {
    const at = offset - this.#aheadAt;
    if (at < 0 || at + length > this.#ahead.length) {
      const wanted = Math.min(limit - offset, Math.max(length, READ_BYTES));
      // Always a new buffer: blocks that were handed out still point into the one before.
      this.#ahead = await this.#readFile(offset, wanted);
      this.#aheadAt = offset;
    }
    return this.#ahead.subarray(offset - this.#aheadAt, offset - this.#aheadAt + length);
  }

  /** The header of the block at `offset` as far as its own checksum vouches for it, for recovery. */
  async readHeader(offset: number, limit: number): Promise<BlockHeader | undefined> {
    const start = await this.read(offset, HEADER_BYTES, limit);
    const blockBytes = blockBytesAt(start, 0);
    if (blockBytes === undefined || offset + blockBytes > limit) return undefined;
    return parseBlockHeader(await this.read(offset, blockBytes, limit));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }

  #block(offset: number, bytes: Buffer, header: BlockHeader): SpoolBlock {
    return {
      kind: header.kind,
      position: { segment: this.segment, offset },
      next: { segment: this.segment, offset: offset + bytes.length },
      sequence: header.sequence,
      endLsn: header.endLsn,
      commitEndLsn: header.commitEndLsn,
      count: header.count,
      bytes,
      offsets: messageOffsets(bytes, header.count),
    };
  }

  async #readFile(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafeSlow(length);
    let filled = 0;
    try {
      while (filled < length) {
        const { bytesRead } = await this.#handle.read(
          buffer,
          filled,
          length - filled,
          offset + filled,
        );
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
    } catch (error) {
      throw fileError(this.path, 'read', error);
    }
    return buffer.subarray(0, filled);
  }
}
