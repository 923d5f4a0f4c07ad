import { OperatorError } from '#src/lib/errors.ts';

import { FRAME_BYTES_MAX, FRAME_HEADER_BYTES } from './frame.ts';

const COPY_DATA = 0x64; // 'd'

/**
 * Finds how far a chunk consists of CopyData frames, whole or cut, so that they can be passed on as they
 * are: COPY OUT and COPY IN share the frame format. Hops from header to header; a body is never looked
 * at and nothing is kept but where the next header begins.
 *
 * https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-COPYDATA
 */
export class CopyRun {
  /** CopyData frames that have begun so far. */
  frames = 0;
  /** Bytes of the body that have not arrived. */
  #bodyBytes = 0;
  /** Bytes of the header that have arrived, 0 when between frames. */
  #headerBytes = 0;
  #length = 0;

  /** The offset in `chunk` of the first frame that is not CopyData, or its length when all belongs to the copy. */
  scan(chunk: Buffer): number {
    let at = 0;
    while (at < chunk.length) {
      if (this.#bodyBytes > 0) {
        const skipped = Math.min(this.#bodyBytes, chunk.length - at);
        this.#bodyBytes -= skipped;
        at += skipped;
      } else if (this.#headerBytes === 0 && chunk.length - at >= FRAME_HEADER_BYTES) {
        if (chunk[at] !== COPY_DATA) return at;
        this.frames += 1;
        this.#enterBody(chunk.readInt32BE(at + 1));
        at += FRAME_HEADER_BYTES;
      } else {
        const byte = chunk.readUInt8(at);
        if (this.#headerBytes === 0 && byte !== COPY_DATA) return at;
        this.#pushHeaderByte(byte);
        at += 1;
      }
    }
    return at;
  }

  /** Whether the next byte begins a frame. */
  get isBetweenFrames(): boolean {
    return this.#headerBytes === 0 && this.#bodyBytes === 0;
  }

  #pushHeaderByte(byte: number): void {
    if (this.#headerBytes === 0) this.#length = 0;
    else this.#length = (this.#length << 8) | byte;
    this.#headerBytes += 1;
    if (this.#headerBytes < FRAME_HEADER_BYTES) return;
    this.#headerBytes = 0;
    this.frames += 1;
    this.#enterBody(this.#length);
  }

  #enterBody(length: number): void {
    if (length < 4 || length >= FRAME_BYTES_MAX) {
      throw new OperatorError(
        'PROTOCOL_VIOLATION',
        `the server claims a copy frame of ${length} bytes`,
      );
    }
    this.#bodyBytes = length - 4;
  }
}
