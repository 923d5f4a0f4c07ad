import type { Lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { type CommitPoint, readCommit, readStreamCommit } from '#src/wire/postgres/pgoutput.ts';

/**
 * What the spool must know about the messages that pass: where transactions end, which streamed ones
 * are open and since which segment, and which Relation and Type messages hold. The writer feeds it what
 * it appends, recovery what it finds; both therefore agree.
 *
 * Relations follow the source's own bookkeeping (pgoutput.c, `cleanup_rel_sync_cache`), trap 17: those
 * sent inside a stream belong to it and count for all only when it commits; an abort, also of a
 * subtransaction only, makes the source forget that it sent them, so they are forgotten here too.
 *
 * Layouts: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */
const BEGIN = 0x42; // B
const COMMIT = 0x43; // C: flags u8, commit LSN u64, end LSN u64
const STREAM_START = 0x53; // S: xid u32, first u8
const STREAM_STOP = 0x45; // E
const STREAM_COMMIT = 0x63; // c: xid u32, flags u8, commit LSN u64, end LSN u64
const STREAM_ABORT = 0x41; // A: xid u32, subtransaction's xid u32
const RELATION = 0x52; // R: (in a stream xid u32) oid u32
const TYPE = 0x59; // Y: likewise

/** What is known of one segment besides its bytes. */
export type SegmentFacts = {
  readonly segment: number;
  /** Commit end of the last transaction before it. */
  readonly commitEndBefore: Lsn;
  /** Largest commit end in it; 0 when no transaction ends in it. */
  commitEnd: bigint;
  /** First segment of the oldest stream that commits in it; its own number when there is none. */
  streamsFrom: number;
  /** Transactions, and blocks of streams, that a reset cut off. */
  readonly voids: Void[];
};

/** From a message of the block at `offset` up to the block at `end`, which is not part of it. */
type Void = { readonly offset: number; readonly message: number; readonly end: number };

type Place = {
  readonly facts: SegmentFacts | undefined;
  readonly offset: number;
  readonly message: number;
};

type OpenStream = { readonly firstSegment: number; readonly relations: Map<string, Buffer> };

export class TransactionTracker {
  readonly segments = new Map<number, SegmentFacts>();
  readonly #relations = new Map<string, Buffer>();
  readonly #open = new Map<number, OpenStream>();
  #current: SegmentFacts | undefined;
  /** The next message: which of the block that begins at `#offset`. */
  #offset = 0;
  #message = 0;
  /** Where the transaction or the block of a stream began that is open. */
  #began: Place | undefined;
  #isInTransaction = false;
  #inStream: OpenStream | undefined;
  #contiguousEnd: Lsn;
  #commitEnd: Lsn;
  #newestCommit: CommitPoint | undefined;

  /** `created`: nothing before it is ever sent. */
  constructor(created: Lsn) {
    this.#contiguousEnd = created;
    this.#commitEnd = created;
  }

  /** Commit end of the last whole transaction, or a later position at which none was in flight. */
  get contiguousEnd(): Lsn {
    return this.#contiguousEnd;
  }

  get commitEnd(): Lsn {
    return this.#commitEnd;
  }

  /** Of the last transaction, if it is still in the spool. */
  get newestCommit(): CommitPoint | undefined {
    return this.#newestCommit;
  }

  /** Neither inside a transaction nor inside a block of a stream: a segment may end here. */
  get isAtBoundary(): boolean {
    return !this.#isInTransaction && this.#inStream === undefined;
  }

  /** Types before the relations that use them, as the source sends them. */
  relations(): Buffer[] {
    return inSendingOrder(this.#relations);
  }

  beginSegment(segment: number): void {
    const commitEndBefore = this.#commitEnd;
    this.#current = { segment, commitEndBefore, commitEnd: 0n, streamsFrom: segment, voids: [] };
    this.segments.set(segment, this.#current);
  }

  /** The next message is the first of the block at `offset` of the current segment. */
  enterBlock(offset: number): void {
    this.#offset = offset;
    this.#message = 0;
  }

  /** Recovery calls it with what the oldest segment says of those before it, which were trimmed. */
  raise(contiguousEnd: Lsn, commitEnd: Lsn): void {
    this.advance(contiguousEnd);
    if (commitEnd > this.#commitEnd) this.#commitEnd = commitEnd;
  }

  /**
   * A new connection sends everything after the confirmed position again, relations included. `offset`
   * is where the current segment goes on.
   */
  reset(offset: number): void {
    const began = this.#began;
    if (began && !this.isAtBoundary) {
      // Nothing of another kind follows it in an earlier segment: that ended with it, in a crash.
      const end = began.facts === this.#current ? offset : Number.POSITIVE_INFINITY;
      began.facts?.voids.push({ offset: began.offset, message: began.message, end });
    }
    this.#began = undefined;
    this.#relations.clear();
    this.#open.clear();
    this.#isInTransaction = false;
    this.#inStream = undefined;
  }

  advance(position: Lsn): void {
    if (position > this.#contiguousEnd) this.#contiguousEnd = position;
  }

  /**
   * The message from which on the block at `offset` is void, if any: a transaction or a block of a stream
   * that a reset cut off begins there.
   */
  voidFrom(segment: number, offset: number): number | undefined {
    for (const part of this.segments.get(segment)?.voids ?? []) {
      if (offset === part.offset) return part.message;
      if (offset > part.offset && offset < part.end) return 0;
    }
    return undefined;
  }

  /**
   * Take note of the next message. Returns relations that a stream's commit made valid for all, if any.
   * Throws PROTOCOL_VIOLATION when transactions are not nested as the protocol says.
   */
  observe(source: Buffer, start: number, end: number): Buffer[] | undefined {
    const tag = source[start] ?? 0;
    this.#message += 1;
    switch (tag) {
      case BEGIN:
        this.#expect(this.isAtBoundary, 'Begin');
        this.#began = this.#place();
        this.#isInTransaction = true;
        return undefined;
      case COMMIT:
        this.#expect(this.#isInTransaction, 'Commit');
        this.#isInTransaction = false;
        this.#committed(readCommit(source, start));
        return undefined;
      case STREAM_START:
        this.#expect(this.isAtBoundary, 'Stream Start');
        this.#began = this.#place();
        this.#inStream = this.#streamOf(source.readUInt32BE(start + 1));
        return undefined;
      case STREAM_STOP:
        this.#expect(this.#inStream !== undefined, 'Stream Stop');
        this.#inStream = undefined;
        return undefined;
      case STREAM_COMMIT:
        this.#expect(this.isAtBoundary, 'Stream Commit');
        return this.#streamCommitted(source, start);
      case STREAM_ABORT:
        this.#expect(this.isAtBoundary, 'Stream Abort');
        this.#streamAborted(source.readUInt32BE(start + 1), source.readUInt32BE(start + 5));
        return undefined;
      case RELATION:
      case TYPE:
        this.#keepRelation(source, start, end);
        return undefined;
      default:
        return undefined;
    }
  }

  /**
   * The first segment that holds anything of a transaction whose commit end is after `applied`, or of a
   * stream that is still open. A transaction that is not streamed never spans segments.
   */
  neededFrom(applied: Lsn): number {
    let needed = this.#current?.segment ?? 0;
    for (const facts of this.segments.values()) {
      if (facts.commitEnd <= applied) continue;
      needed = Math.min(needed, facts.segment, facts.streamsFrom);
    }
    for (const stream of this.#open.values()) needed = Math.min(needed, stream.firstSegment);
    return needed;
  }

  /** Of the message that is being observed. */
  #place(): Place {
    return { facts: this.#current, offset: this.#offset, message: this.#message - 1 };
  }

  #expect(isExpected: boolean, message: string): void {
    if (isExpected) return;
    throw new OperatorError('PROTOCOL_VIOLATION', `unexpected ${message} in the change stream`);
  }

  #committed(point: CommitPoint): void {
    const end = point.endLsn;
    if (end >= this.#commitEnd) this.#newestCommit = point;
    this.raise(end, end);
    if (this.#current && end > this.#current.commitEnd) this.#current.commitEnd = end;
  }

  #streamOf(xid: number): OpenStream {
    const known = this.#open.get(xid);
    if (known) return known;
    const stream = { firstSegment: this.#current?.segment ?? 0, relations: new Map() };
    this.#open.set(xid, stream);
    return stream;
  }

  #streamCommitted(source: Buffer, start: number): Buffer[] | undefined {
    const xid = source.readUInt32BE(start + 1);
    const stream = this.#streamOf(xid);
    this.#open.delete(xid);
    if (this.#current && stream.firstSegment < this.#current.streamsFrom) {
      this.#current.streamsFrom = stream.firstSegment;
    }
    this.#committed(readStreamCommit(source, start));
    for (const [key, message] of stream.relations) this.#relations.set(key, message);
    return stream.relations.size === 0 ? undefined : inSendingOrder(stream.relations);
  }

  #streamAborted(xid: number, subtransactionXid: number): void {
    if (xid === subtransactionXid) this.#open.delete(xid);
    else this.#open.get(xid)?.relations.clear();
  }

  #keepRelation(source: Buffer, start: number, end: number): void {
    const tag = source[start] === TYPE ? 'Y' : 'R';
    const stream = this.#inStream;
    const body = stream ? start + 5 : start + 1;
    const message = Buffer.allocUnsafeSlow(1 + end - body);
    message[0] = source[start] ?? 0;
    source.copy(message, 1, body, end);
    (stream?.relations ?? this.#relations).set(`${tag}${source.readUInt32BE(body)}`, message);
  }
}

function inSendingOrder(relations: ReadonlyMap<string, Buffer>): Buffer[] {
  const messages = [...relations.values()];
  return [
    ...messages.filter((message) => message[0] === TYPE),
    ...messages.filter((message) => message[0] !== TYPE),
  ];
}
