import type { Lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { SpoolBlock } from '#src/stream/spool/format.ts';
import type { SpoolReader } from '#src/stream/spool/reader.ts';
import {
  type CommitPoint,
  readBeginCommitLsn,
  readCommit,
  readIsFirstBlock,
  readRelation,
  readStreamAbort,
  readStreamCommit,
  readXid,
  type Relation,
  TAG,
} from '#src/wire/postgres/pgoutput.ts';

import { OpenStreams } from './open-streams.ts';

/** A message of a transaction, in place: `body` is the offset after its tag (and xid). */
export type ContentMessage = {
  readonly tag: number;
  readonly bytes: Buffer;
  readonly body: number;
  readonly end: number;
  /** Subtransactions that were rolled back after they had been streamed; none, unless it is replayed. */
  readonly abortedXids: ReadonlySet<number>;
};

const NONE: ReadonlySet<number> = new Set();

/** Who takes the transactions. */
export type TransactionSink = {
  /** A transaction begins; whether its content is wanted. May wait. */
  begin: (commitLsn: Lsn, signal: AbortSignal) => Promise<boolean>;
  /** Messages of this block follow, and may be kept by reference. */
  block: (block: SpoolBlock) => void;
  /** How a table looks from here on, whether or not the transaction is wanted. */
  relation: (relation: Relation) => void;
  /** A message of a wanted transaction: I, U, D, T, M. Without a promise for each row, of which there are many. */
  content: (message: ContentMessage, commitLsn: Lsn) => void;
  /** Looked at after each relation and content: whether `drain` must come before the next. */
  readonly isFull: boolean;
  drain: () => Promise<void>;
  /** The wanted transaction is complete. */
  commit: (point: CommitPoint) => Promise<void>;
};

type Transaction = { readonly commitLsn: Lsn; readonly isWanted: boolean };

/**
 * Turns the blocks of a spool into whole transactions in commit order. A streamed transaction is left in
 * the spool until its commit, where only its blocks are remembered; then it is read as if it came now
 * (trap 17).
 */
export class TransactionReader {
  readonly #spool: Pick<SpoolReader, 'readAt'>;
  readonly #sink: TransactionSink;
  readonly #streams = new OpenStreams();
  #transaction: Transaction | undefined;

  constructor(spool: Pick<SpoolReader, 'readAt'>, sink: TransactionSink) {
    this.#spool = spool;
    this.#sink = sink;
  }

  /** Between the begin and the commit of a transaction that is not streamed. */
  get isInTransaction(): boolean {
    return this.#transaction !== undefined;
  }

  async messages(block: SpoolBlock, signal: AbortSignal): Promise<void> {
    const { bytes, offsets } = block;
    this.#sink.block(block);
    this.#streams.beginSpoolBlock();
    for (let i = 0; i < block.count; i++) {
      const at = offsets[2 * i] ?? 0;
      const tag = bytes[at] ?? 0;
      if (this.#streams.isInBlock) {
        if (tag !== TAG.streamStop) continue;
        this.#streams.endExtent(block, i);
        this.#streams.stop();
        continue;
      }
      switch (tag) {
        case TAG.begin:
          await this.#begin(readBeginCommitLsn(bytes, at), signal);
          break;
        case TAG.commit:
          await this.#commit(readCommit(bytes, at));
          break;
        case TAG.streamStart:
          this.#streams.start(readXid(bytes, at), readIsFirstBlock(bytes, at), i + 1);
          break;
        case TAG.streamAbort:
          this.#streams.abort(readStreamAbort(bytes, at));
          break;
        case TAG.streamCommit:
          await this.#streamCommit(readStreamCommit(bytes, at), signal);
          break;
        default:
          this.#content({
            tag,
            bytes,
            body: at + 1,
            end: offsets[2 * i + 1] ?? 0,
            abortedXids: NONE,
          });
          if (this.#sink.isFull) await this.#sink.drain();
      }
    }
    this.#streams.endExtent(block, block.count);
  }

  /** What holds for everybody from here on; messages without an xid. */
  async relations(block: SpoolBlock): Promise<void> {
    for (let i = 0; i < block.count; i++) {
      const at = block.offsets[2 * i] ?? 0;
      if (block.bytes[at] !== TAG.relation) continue;
      this.#sink.relation(readRelation(block.bytes, at + 1));
      if (this.#sink.isFull) await this.#sink.drain();
    }
  }

  /** A new connection: the source sends again what was not complete. */
  reset(): void {
    this.#streams.clear();
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (transaction?.isWanted !== true) return;
    // Part of it is in the batch, perhaps applied already. The loop begins again from the progress.
    throw new OperatorError('CONNECTION_LOST', 'a transaction was cut off by a new connection');
  }

  /** What is between a transaction's begin and commit. */
  #content(message: ContentMessage): void {
    const { tag } = message;
    if (tag === TAG.relation) {
      this.#sink.relation(readRelation(message.bytes, message.body));
      return;
    }
    const transaction = this.#transaction;
    if (transaction === undefined) {
      // Not transactional, and not ours.
      if (tag === TAG.message) return;
      throw new OperatorError('PROTOCOL_VIOLATION', `change ${tag} outside of a transaction`);
    }
    if (!transaction.isWanted || tag === TAG.origin || tag === TAG.type) return;
    this.#sink.content(message, transaction.commitLsn);
  }

  async #begin(commitLsn: Lsn, signal: AbortSignal): Promise<void> {
    this.#transaction = { commitLsn, isWanted: await this.#sink.begin(commitLsn, signal) };
  }

  async #commit(point: CommitPoint): Promise<void> {
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (transaction?.isWanted === true) await this.#sink.commit(point);
  }

  /** The whole transaction, out of the spool, as if it came now. */
  async #streamCommit(point: CommitPoint & { readonly xid: number }, signal: AbortSignal) {
    await this.#begin(point.commitLsn, signal);
    if (this.#transaction?.isWanted === true) {
      const { extents, abortedXids } = this.#streams.take(point.xid);
      let block: SpoolBlock | undefined;
      for (const { position, from, to } of extents) {
        // Small pieces of several streams may share a block.
        const isSame =
          block?.position.segment === position.segment && block.position.offset === position.offset;
        if (block === undefined || !isSame) {
          signal.throwIfAborted();
          block = await this.#spool.readAt(position);
          this.#sink.block(block);
        }
        await this.#replay(block, { from, to }, abortedXids);
      }
    } else {
      this.#streams.forget(point.xid);
    }
    await this.#commit(point);
  }

  async #replay(
    { bytes, offsets }: SpoolBlock,
    { from, to }: { readonly from: number; readonly to: number },
    abortedXids: ReadonlySet<number>,
  ): Promise<void> {
    for (let i = from; i < to; i++) {
      const at = offsets[2 * i] ?? 0;
      const tag = bytes[at] ?? 0;
      if (tag === TAG.origin) continue; // It has no xid.
      // Rolled back to a savepoint after it was streamed; a Relation is true all the same. A logical message
      // always has the xid of the whole transaction: whoever reads it must know whose it is.
      if (tag !== TAG.relation && abortedXids.has(readXid(bytes, at))) continue;
      this.#content({ tag, bytes, body: at + 5, end: offsets[2 * i + 1] ?? 0, abortedXids });
      if (this.#sink.isFull) await this.#sink.drain();
    }
  }
}
