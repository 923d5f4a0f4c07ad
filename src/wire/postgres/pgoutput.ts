import { type Lsn, lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';

/**
 * pgoutput, protocol version 2 (streaming of transactions in progress), which servers 14 to 18 speak.
 *
 * Nothing here copies a row. A message stays where it was received; functions read single fields at an
 * offset, and a tuple is walked in place:
 *
 *     tuple  = Int16 columns, then per column  Byte kind [Int32 length, bytes]
 *     kind   = n NULL | u unchanged TOAST, not in the WAL | t text | b binary
 *
 * Inside a streamed block (between S and E) the messages R Y I U D T M carry the xid of their
 * (sub)transaction right after the tag; `body` is the offset after tag and xid.
 * https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */

export const TAG = {
  begin: 0x42, // B
  commit: 0x43, // C
  origin: 0x4f, // O
  relation: 0x52, // R
  type: 0x59, // Y
  insert: 0x49, // I
  update: 0x55, // U
  delete: 0x44, // D
  truncate: 0x54, // T
  message: 0x4d, // M
  streamStart: 0x53, // S
  streamStop: 0x45, // E
  streamCommit: 0x63, // c
  streamAbort: 0x41, // A
} as const;

export const VALUE = {
  null: 0x6e, // n
  unchanged: 0x75, // u
  text: 0x74, // t
  binary: 0x62, // b
} as const;

const TUPLE = { new: 0x4e, key: 0x4b, old: 0x4f } as const; // N, K, O

/** Microseconds between the Postgres epoch (2000-01-01) and the Unix epoch. */
const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

/** A transaction's end: the commit record's own position, and the position right after it. */
export type CommitPoint = {
  /** Start of the commit record: a snapshot at L contains this transaction iff commitLsn < L. */
  readonly commitLsn: Lsn;
  /** Where to resume: every transaction that ends at or before it is complete (I12). */
  readonly endLsn: Lsn;
  /** Microseconds since 2000-01-01 UTC, as the server sent them. */
  readonly commitTime: bigint;
};

function readLsn(bytes: Buffer, at: number): Lsn {
  return lsn(bytes.readBigUInt64BE(at));
}

/** B: the position of the commit record that this transaction will end with. */
export function readBeginCommitLsn(bytes: Buffer, at: number): Lsn {
  return readLsn(bytes, at + 1);
}

/** B, or c: a transaction as it begins to be sent for good; undefined for any other message. */
export function readCommitting(
  bytes: Buffer,
  at: number,
): Pick<CommitPoint, 'commitLsn' | 'commitTime'> | undefined {
  if (bytes[at] === TAG.streamCommit) return readStreamCommit(bytes, at);
  if (bytes[at] !== TAG.begin) return undefined;
  return { commitLsn: readLsn(bytes, at + 1), commitTime: bytes.readBigInt64BE(at + 9) };
}

/** C */
export function readCommit(bytes: Buffer, at: number): CommitPoint {
  return readCommitFields(bytes, at + 2);
}

/** c */
export function readStreamCommit(
  bytes: Buffer,
  at: number,
): CommitPoint & { readonly xid: number } {
  return { xid: bytes.readUInt32BE(at + 1), ...readCommitFields(bytes, at + 6) };
}

function readCommitFields(bytes: Buffer, at: number): CommitPoint {
  return {
    commitLsn: readLsn(bytes, at),
    endLsn: readLsn(bytes, at + 8),
    commitTime: bytes.readBigInt64BE(at + 16),
  };
}

/** The xid at the front of a streamed block (S), or of a message inside one. */
export function readXid(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at + 1);
}

/** S: whether this is the transaction's first block. */
export function readIsFirstBlock(bytes: Buffer, at: number): boolean {
  return bytes[at + 5] === 1;
}

/** A: `subXid` equals `xid` when the whole transaction was rolled back. */
export function readStreamAbort(
  bytes: Buffer,
  at: number,
): { readonly xid: number; readonly subXid: number } {
  return { xid: bytes.readUInt32BE(at + 1), subXid: bytes.readUInt32BE(at + 5) };
}

/** Milliseconds since the Unix epoch. */
export function commitTimeMs(commitTime: bigint): number {
  return Number((commitTime + POSTGRES_EPOCH_MICROS) / 1000n);
}

export type RelationColumn = {
  readonly name: string;
  /** Whether the source names rows by it: it is in the old keys of the stream. */
  readonly isKey: boolean;
  readonly typeOid: number;
  readonly typeModifier: number;
};

/** A table as the stream describes it: generated columns are absent, order is attnum order. */
export type Relation = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly RelationColumn[];
};

/** R */
export function readRelation(bytes: Buffer, body: number): Relation {
  let at = body + 4;
  const text = (): string => {
    const end = bytes.indexOf(0, at);
    if (end < 0) throw violation('relation name without its end');
    const value = bytes.toString('utf8', at, end);
    at = end + 1;
    return value;
  };
  const schema = text();
  const name = text();
  at += 1; // The replica identity setting; what matters of it is which columns are key.
  const count = bytes.readUInt16BE(at);
  at += 2;
  const columns: RelationColumn[] = [];
  for (let i = 0; i < count; i++) {
    const isKey = (bytes.readUInt8(at) & 1) !== 0;
    at += 1;
    const column = text();
    columns.push({
      name: column,
      isKey,
      typeOid: bytes.readUInt32BE(at),
      typeModifier: bytes.readInt32BE(at + 4),
    });
    at += 8;
  }
  return { oid: bytes.readUInt32BE(body), schema, name, columns };
}

/** R, I, U, D */
export function readRelationOid(bytes: Buffer, body: number): number {
  return bytes.readUInt32BE(body);
}

/** T */
export function readTruncate(
  bytes: Buffer,
  body: number,
): { readonly relationOids: readonly number[]; readonly restartsIdentity: boolean } {
  const count = bytes.readUInt32BE(body);
  const relationOids = Array.from({ length: count }, (_, i) =>
    bytes.readUInt32BE(body + 5 + 4 * i),
  );
  return { relationOids, restartsIdentity: (bytes.readUInt8(body + 4) & 2) !== 0 };
}

/** M */
export function readLogicalMessage(
  bytes: Buffer,
  body: number,
): { readonly prefix: string; readonly content: string } {
  const end = bytes.indexOf(0, body + 9);
  if (end < 0) throw violation('message prefix without its end');
  const length = bytes.readUInt32BE(end + 1);
  return {
    prefix: bytes.toString('utf8', body + 9, end),
    content: bytes.toString('utf8', end + 5, end + 5 + length),
  };
}

/** Offsets of the tuples of a row message; -1 where it has none. `before` is the old key or the old row. */
export type RowTuples = { readonly before: number; readonly after: number };

/** I, U, D */
export function readRowTuples(tag: number, bytes: Buffer, body: number): RowTuples {
  const at = body + 4;
  const kind = bytes[at];
  const hasBefore = kind === TUPLE.key || kind === TUPLE.old;
  if (tag === TAG.delete && hasBefore) return { before: at + 1, after: -1 };
  if (tag !== TAG.delete && kind === TUPLE.new) return { before: -1, after: at + 1 };
  if (tag !== TAG.update || !hasBefore) throw violation(`row message ${tag} with tuple ${kind}`);
  const after = skipTuple(bytes, at + 1);
  if (bytes[after] !== TUPLE.new) throw violation('update without a new tuple');
  return { before: at + 1, after: after + 1 };
}

/** Whether a U or D carries its old row whole, as under REPLICA IDENTITY FULL, and not just the key. */
export function isWholeRow(bytes: Buffer, body: number): boolean {
  return bytes[body + 4] === TUPLE.old;
}

/** The offset after the tuple at `at`. */
export function skipTuple(bytes: Buffer, at: number): number {
  const columns = bytes.readUInt16BE(at);
  let next = at + 2;
  for (let i = 0; i < columns; i++) next = nextColumn(bytes, next);
  return next;
}

/** The offset after the column value at `at`. */
export function nextColumn(bytes: Buffer, at: number): number {
  const kind = bytes[at];
  if (kind === VALUE.text || kind === VALUE.binary) return at + 5 + bytes.readUInt32BE(at + 1);
  if (kind !== VALUE.null && kind !== VALUE.unchanged) throw violation(`column of kind ${kind}`);
  return at + 1;
}

/** Offsets of the columns named by `indexes` (ascending) of the tuple at `at`. */
export function columnOffsets(bytes: Buffer, at: number, indexes: readonly number[]): number[] {
  const offsets: number[] = [];
  let next = at + 2;
  let column = 0;
  for (const index of indexes) {
    for (; column < index; column++) next = nextColumn(bytes, next);
    offsets.push(next);
  }
  return offsets;
}

function violation(what: string): OperatorError {
  return new OperatorError('PROTOCOL_VIOLATION', `pgoutput: ${what}`);
}
