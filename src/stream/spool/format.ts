import { crc32 } from 'node:zlib';

import { type Lsn, lsn } from '#src/core/lsn.ts';
import { assert } from '#src/lib/assert.ts';

/**
 * The bytes of a spool segment: blocks, back to back. All integers are big-endian.
 *
 * ```
 *  0 u32 magic              24 u64 sequence, one more than the block before, across segments
 *  4 u32 CRC-32 of 8..end   32 u64 WAL start of the first message
 *  8 u32 body bytes         40 u64 WAL start of the last message
 * 12 u32 messages           48 u64 contiguous end as of the end of this block
 * 16 u32 kind               56 u64 commit end of the last transaction up to the end of this block
 * 20 u32 zero               64 u64 bytes of this segment that were durable when this was written
 *                           72 body: per message u32 length, u64 WAL start, the message
 * ```
 *
 * WAL starts are what XLogData gave: for a person who debugs, never a place to resume from. The durable
 * bytes tell damage from a torn tail: a bad block that a later one calls durable is damage.
 */
export const HEADER_BYTES = 72;
export const MESSAGE_HEADER_BYTES = 12;
export const FORMAT_VERSION = 1;

const MAGIC = 0x55_53_50_31; // "USP1"

/** For searching a damaged file. */
export const MAGIC_BYTES: Buffer = Buffer.from('USP1', 'latin1');

/**
 * - `messages`: pgoutput messages as received.
 * - `relations`: Relation and Type messages that hold from here on, outside of any transaction and in
 *   the form without an xid. First in each segment, and after the commit of a stream that brought some.
 * - `reset`: a new connection begins; a transaction in progress and all open streams are void.
 * - `position`: the source had nothing more to say up to `endLsn`.
 */
export type BlockKind = 'messages' | 'relations' | 'reset' | 'position';

const KINDS: readonly BlockKind[] = ['messages', 'relations', 'reset', 'position'];

/** Where a block begins. Order: segment, then offset. */
export type SpoolPosition = { readonly segment: number; readonly offset: number };

/** One block as read back. Keeps a larger read buffer alive as long as it is referenced. */
export type SpoolBlock = {
  readonly kind: BlockKind;
  readonly position: SpoolPosition;
  /** Where the next block of the same segment begins, if there is one. */
  readonly next: SpoolPosition;
  readonly sequence: bigint;
  /** The commit end of the last whole transaction up to the end of this block, or a later `position`. */
  readonly endLsn: Lsn;
  /** The commit end alone. */
  readonly commitEndLsn: Lsn;
  readonly count: number;
  readonly bytes: Buffer;
  /** Start and end of each message in `bytes`, alternating: 2 × count entries. */
  readonly offsets: Int32Array;
};

export type BlockHeader = {
  readonly kind: BlockKind;
  readonly count: number;
  readonly sequence: bigint;
  readonly firstWal: bigint;
  readonly lastWal: bigint;
  readonly endLsn: Lsn;
  readonly commitEndLsn: Lsn;
  readonly durableBytes: number;
};

/** Fill in the header of `block`, whose body is in place; last the CRC over all of it. */
export function sealBlock(block: Buffer, header: BlockHeader): void {
  block.writeUInt32BE(MAGIC, 0);
  block.writeUInt32BE(block.length - HEADER_BYTES, 8);
  block.writeUInt32BE(header.count, 12);
  block.writeUInt32BE(KINDS.indexOf(header.kind), 16);
  block.writeUInt32BE(0, 20);
  block.writeBigUInt64BE(header.sequence, 24);
  block.writeBigUInt64BE(header.firstWal, 32);
  block.writeBigUInt64BE(header.lastWal, 40);
  block.writeBigUInt64BE(header.endLsn, 48);
  block.writeBigUInt64BE(header.commitEndLsn, 56);
  block.writeBigUInt64BE(BigInt(header.durableBytes), 64);
  block.writeUInt32BE(crc32(block.subarray(8)), 4);
}

/** Length of the block that begins at `at`, or undefined when no header does. Nothing is verified yet. */
export function blockBytesAt(bytes: Buffer, at: number): number | undefined {
  if (bytes.length - at < HEADER_BYTES || bytes.readUInt32BE(at) !== MAGIC) return undefined;
  return HEADER_BYTES + bytes.readUInt32BE(at + 8);
}

/** Header of exactly one block, or undefined when its checksum is wrong. */
export function parseBlockHeader(block: Buffer): BlockHeader | undefined {
  if (blockBytesAt(block, 0) !== block.length) return undefined;
  if (crc32(block.subarray(8)) !== block.readUInt32BE(4)) return undefined;
  const kind = KINDS[block.readUInt32BE(16)];
  if (kind === undefined) return undefined;
  return {
    kind,
    count: block.readUInt32BE(12),
    sequence: block.readBigUInt64BE(24),
    firstWal: block.readBigUInt64BE(32),
    lastWal: block.readBigUInt64BE(40),
    endLsn: lsn(block.readBigUInt64BE(48)),
    commitEndLsn: lsn(block.readBigUInt64BE(56)),
    durableBytes: Number(block.readBigUInt64BE(64)),
  };
}

/** Starts and ends of the messages of a block whose checksum was right. */
export function messageOffsets(block: Buffer, count: number): Int32Array {
  const offsets = new Int32Array(2 * count);
  let at = HEADER_BYTES;
  for (let i = 0; i < offsets.length; i += 2) {
    const start = at + MESSAGE_HEADER_BYTES;
    at = start + block.readUInt32BE(at);
    offsets[i] = start;
    offsets[i + 1] = at;
  }
  assert(at === block.length, 'the messages of a block fill it');
  return offsets;
}

/** A block, not yet sealed, that holds these messages with WAL start 0. */
export function blockOfMessages(messages: readonly Buffer[]): Buffer {
  const bodyBytes = messages.reduce((sum, one) => sum + MESSAGE_HEADER_BYTES + one.length, 0);
  const block = Buffer.allocUnsafeSlow(HEADER_BYTES + bodyBytes);
  let at = HEADER_BYTES;
  for (const message of messages) {
    block.writeUInt32BE(message.length, at);
    block.writeBigUInt64BE(0n, at + 4);
    message.copy(block, at + MESSAGE_HEADER_BYTES);
    at += MESSAGE_HEADER_BYTES + message.length;
  }
  return block;
}
