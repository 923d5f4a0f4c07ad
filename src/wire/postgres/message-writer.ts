import { assert } from '#src/lib/assert.ts';

const MESSAGE_BYTES_MAX = 0x7fff_ffff;
/** Below this many bytes a loop is faster than the call of Buffer.copy. */
const COPY_CALL_BYTES = 32;

/**
 * Appends messages to one growing buffer, without an allocation but for growth. Lengths are patched in
 * when they are known: those of messages by `begin` and `end`, any other by `reserveInt32` and `patchInt32`.
 *
 *     writer.begin(TAG).cstring(name).int16(0).end();
 *     await connection.write(writer.take());
 */
export class MessageWriter {
  #buffer: Buffer;
  #length = 0;
  #lengthAt = -1;

  constructor(bytes = 64 * 1024) {
    this.#buffer = Buffer.allocUnsafeSlow(bytes);
  }

  /** Bytes written since the last `take` or `reset`. */
  get length(): number {
    return this.#length;
  }

  /** Begin a message with a tag byte. */
  begin(tag: number): this {
    return this.int8(tag).beginUntagged();
  }

  /** Begin a message of the startup phase, which has a length only. */
  beginUntagged(): this {
    assert(this.#lengthAt < 0, 'a message is still open');
    this.#lengthAt = this.#length;
    return this.int32(0);
  }

  /** Close the message: its length counts itself, not the tag. */
  end(): this {
    assert(this.#lengthAt >= 0, 'no message is open');
    const bytes = this.#length - this.#lengthAt;
    assert(bytes <= MESSAGE_BYTES_MAX, 'a message is below 2 GB');
    this.#buffer.writeInt32BE(bytes, this.#lengthAt);
    this.#lengthAt = -1;
    return this;
  }

  int8(value: number): this {
    this.reserve(1);
    this.#buffer[this.#length++] = value;
    return this;
  }

  int16(value: number): this {
    this.reserve(2);
    const buffer = this.#buffer;
    buffer[this.#length++] = value >> 8;
    buffer[this.#length++] = value;
    return this;
  }

  int32(value: number): this {
    this.reserve(4);
    const buffer = this.#buffer;
    buffer[this.#length++] = value >> 24;
    buffer[this.#length++] = value >> 16;
    buffer[this.#length++] = value >> 8;
    buffer[this.#length++] = value;
    return this;
  }

  int64(value: bigint): this {
    this.reserve(8);
    this.#length = this.#buffer.writeBigInt64BE(BigInt.asIntN(64, value), this.#length);
    return this;
  }

  /** Append `source[start, end)`. */
  bytes(source: Buffer, start = 0, end: number = source.length): this {
    const count = end - start;
    this.reserve(count);
    if (count >= COPY_CALL_BYTES) {
      source.copy(this.#buffer, this.#length, start, end);
      this.#length += count;
      return this;
    }
    const buffer = this.#buffer;
    let to = this.#length;
    for (let from = start; from < end; from += 1) buffer[to++] = source[from] ?? 0;
    this.#length = to;
    return this;
  }

  /** UTF-8 without a terminator. */
  text(value: string): this {
    // A UTF-16 unit is at most three bytes of UTF-8.
    this.reserve(3 * value.length);
    this.#length += this.#buffer.write(value, this.#length);
    return this;
  }

  /** UTF-8 and a zero byte. */
  cstring(value: string): this {
    assert(!value.includes('\0'), 'a string of the protocol cannot hold a zero byte');
    return this.text(value).int8(0);
  }

  /** UTF-8 behind its length in bytes; NULL is the length -1. */
  value(text: string | null): this {
    if (text === null) return this.int32(-1);
    const at = this.reserveInt32();
    this.text(text);
    return this.patchInt32(at, this.#length - at - 4);
  }

  /** Leave room for an int32; the position to give to `patchInt32`. */
  reserveInt32(): number {
    const at = this.#length;
    this.int32(0);
    return at;
  }

  patchInt32(at: number, value: number): this {
    this.#buffer.writeInt32BE(value, at);
    return this;
  }

  /** Make room for `count` more bytes at once. */
  reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#buffer.length));
    this.#buffer.copy(grown, 0, 0, this.#length);
    this.#buffer = grown;
  }

  /** The messages so far, valid until the writer is used again: for what is copied or written at once. */
  view(): Buffer {
    assert(this.#lengthAt < 0, 'a message is still open');
    return this.#buffer.subarray(0, this.#length);
  }

  /** The messages so far, as memory that the writer gives up; it goes on with a new buffer of the same size. */
  take(): Buffer {
    const taken = this.view();
    this.#buffer = Buffer.allocUnsafeSlow(this.#buffer.length);
    this.#length = 0;
    return taken;
  }

  /** Forget everything since the last `take`; the memory is used again. */
  reset(): this {
    this.#length = 0;
    this.#lengthAt = -1;
    return this;
  }
}
