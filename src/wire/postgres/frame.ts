import { OperatorError } from '#src/lib/errors.ts';

/** A tag byte, and an int32 length that counts itself but not the tag. */
export const FRAME_HEADER_BYTES = 5;

/** What a server may send at most: the limit of its own message buffer (MaxAllocSize). */
export const FRAME_BYTES_MAX = 0x4000_0000;

const ASSEMBLY_BYTES_MIN = 4096;
const NOTHING = Buffer.alloc(0);

/**
 * Walks the frames of a byte stream, chunk by chunk, without joining chunks and without an object per
 * frame (trap 49): after `next()` the current frame is `tag` and the body `buffer[start, end)`. Only a
 * frame that spans chunks is put together, in memory that grows as its bytes arrive, so that a lying
 * length costs nothing.
 *
 *     walker.feed(chunk);
 *     while (walker.next()) handle(walker.tag, walker.buffer, walker.start, walker.end);
 *
 * A body that lies inside its chunk shares memory with it; an assembled one stays valid, too.
 *
 * https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-MESSAGE-CONCEPTS
 */
export class FrameWalker {
  tag = 0;
  buffer: Buffer = NOTHING;
  start = 0;
  end = 0;

  readonly #frameBytesMax: number;
  #chunk: Buffer = NOTHING;
  #offset = 0;
  /** The beginning of a frame whose rest has not arrived. */
  #partial: Buffer = NOTHING;
  #partialBytes = 0;

  constructor(options: { readonly frameBytesMax: number } = { frameBytesMax: FRAME_BYTES_MAX }) {
    this.#frameBytesMax = options.frameBytesMax;
  }

  /** Hand over the next bytes; what is left of the last ones (`rest`) is kept only once `next()` gave false. */
  feed(chunk: Buffer): void {
    this.#chunk = chunk;
    this.#offset = 0;
  }

  /** Move to the next complete frame. False: feed more. Throws PROTOCOL_VIOLATION for an impossible length. */
  next(): boolean {
    if (this.#partialBytes > 0) return this.#nextAssembled();
    const available = this.#chunk.length - this.#offset;
    if (available < FRAME_HEADER_BYTES) return this.#keep(FRAME_HEADER_BYTES);
    const frameBytes = this.#frameBytes(this.#chunk, this.#offset);
    if (available < frameBytes) return this.#keep(frameBytes);
    this.#settle(this.#chunk, this.#offset, frameBytes);
    this.#offset += frameBytes;
    return true;
  }

  /** The bytes of the fed chunk that lie behind the current frame. */
  rest(): Buffer {
    return this.#chunk.subarray(this.#offset);
  }

  #nextAssembled(): boolean {
    if (!this.#fill(FRAME_HEADER_BYTES)) return false;
    const frameBytes = this.#frameBytes(this.#partial, 0);
    if (!this.#fill(frameBytes)) return false;
    this.#settle(this.#partial, 0, frameBytes);
    this.#partial = NOTHING;
    this.#partialBytes = 0;
    return true;
  }

  #settle(buffer: Buffer, offset: number, frameBytes: number): void {
    this.tag = buffer.readUInt8(offset);
    this.buffer = buffer;
    this.start = offset + FRAME_HEADER_BYTES;
    this.end = offset + frameBytes;
  }

  #frameBytes(buffer: Buffer, offset: number): number {
    const frameBytes = 1 + buffer.readInt32BE(offset + 1);
    if (frameBytes < FRAME_HEADER_BYTES || frameBytes > this.#frameBytesMax) {
      throw new OperatorError(
        'PROTOCOL_VIOLATION',
        `the server claims a frame of ${frameBytes} bytes`,
        {
          detail: { tag: buffer.readUInt8(offset), frameBytesMax: this.#frameBytesMax },
        },
      );
    }
    return frameBytes;
  }

  /** Put the rest of the chunk aside as the beginning of a frame of at least `frameBytes`. */
  #keep(frameBytes: number): false {
    if (this.#offset < this.#chunk.length) this.#fill(frameBytes);
    return false;
  }

  /** Append from the chunk until the partial frame has `wanted` bytes; false when the chunk ran out first. */
  #fill(wanted: number): boolean {
    const missing = wanted - this.#partialBytes;
    if (missing <= 0) return true;
    const taken = Math.min(missing, this.#chunk.length - this.#offset);
    this.#reserve(this.#partialBytes + taken, wanted);
    this.#chunk.copy(this.#partial, this.#partialBytes, this.#offset, this.#offset + taken);
    this.#partialBytes += taken;
    this.#offset += taken;
    return taken === missing;
  }

  #reserve(needed: number, wanted: number): void {
    if (needed <= this.#partial.length) return;
    // Doubling up to what is claimed: the cost is linear, and memory follows what has arrived.
    const bytes = Math.max(needed, Math.min(wanted, 2 * needed), ASSEMBLY_BYTES_MIN);
    const grown = Buffer.allocUnsafeSlow(bytes);
    this.#partial.copy(grown, 0, 0, this.#partialBytes);
    this.#partial = grown;
  }
}
