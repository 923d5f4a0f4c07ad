import type { Lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { SpoolBlock } from '#src/stream/spool/format.ts';
import type { SpoolReader } from '#src/stream/spool/reader.ts';
import {
  type CommitPoint,
  readLogicalMessage,
  readRelationOid,
  readTruncate,
  TAG,
} from '#src/wire/postgres/pgoutput.ts';

import type { ApplyGate } from './apply-gate.ts';
import { ApplyGroup, type ApplyGroupDeps } from './apply-group.ts';
import type { LoopTables } from './followed-tables.ts';
import type { MessageHandlers } from './logical-messages.ts';
import { type ContentMessage, TransactionReader } from './transaction-reader.ts';

/**
 * Reads the spool and applies it: whole source transactions in commit order, many in one transaction of
 * the target, one at a time.
 *
 *     spool ─► transactions ─► batch (compacted) ─► apply … apply ─► commit at a source commit
 *                                10,000 rows or 8 MB   └ the next batch is decoded meanwhile
 *
 * A group ends when it is large enough or when the spool has nothing more, so that grouping costs no
 * time when caught up. A transaction larger than a batch is applied batch by batch inside one transaction
 * of the target, and is never held (trap 17).
 *
 * Skipped are: transactions that the target has committed already (their commit record starts before the
 * progress, which is a commit's end), and changes of a table that its copy already holds.
 */
export type ApplyLoopDeps = ApplyGroupDeps & {
  readonly reader: Pick<SpoolReader, 'tryRead' | 'read' | 'readAt'>;
  readonly tables: LoopTables;
  readonly messages: MessageHandlers;
  readonly gate: ApplyGate;
  /**
   * The commit record of a transaction that an earlier attempt could not apply: what ends before it is
   * committed first, so that a table which stops at it stops right there.
   */
  readonly settleBefore?: Lsn | undefined;
};

export class ApplyLoop {
  readonly #deps: ApplyLoopDeps;
  readonly #group: ApplyGroup;
  readonly #transactions: TransactionReader;
  /** Commit end of the last transaction taken in. */
  #endLsn: Lsn;
  #commitLsn: Lsn | undefined;
  /** What follows is to be read by another shape than what was collected. */
  #isShapeNew = false;

  constructor(deps: ApplyLoopDeps, applied: Lsn) {
    this.#deps = deps;
    this.#endLsn = applied;
    const group = new ApplyGroup(deps, applied);
    this.#group = group;
    const isFull = (): boolean => this.#isShapeNew || group.isBatchLarge;
    this.#transactions = new TransactionReader(deps.reader, {
      begin: async (commitLsn, signal) => this.#begin(commitLsn, signal),
      block: (block) => group.holdBlock(block),
      relation: (relation) => {
        if (deps.tables.relation(relation)) this.#isShapeNew = true;
      },
      content: (message, commitLsn) => this.#content(message, commitLsn),
      get isFull() {
        return isFull();
      },
      drain: async () => {
        this.#isShapeNew = false;
        await group.submitBatch();
      },
      commit: async (point) => this.#commit(point),
    });
  }

  /** Commit record of the newest transaction that was begun to be read. */
  get begunLsn(): Lsn | undefined {
    return this.#commitLsn;
  }

  /**
   * Apply until aborted, or until something stops it; whatever is not committed then is rolled back.
   * Returns when the tables must be read again.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { reader } = this.#deps;
    try {
      for (;;) {
        signal.throwIfAborted();
        let block = await reader.tryRead();
        if (block === undefined) {
          await this.#idle(signal);
          block = await this.#nextBlock(signal);
        }
        if (block !== undefined) await this.#block(block, signal);
      }
    } catch (error) {
      if (error instanceof TablesOutdated) return;
      // What became of a commit under way is not known when it failed, and where a table stopped follows from it.
      throw (await this.#group.failure()) ?? error;
    } finally {
      await this.#group.rollback();
    }
  }

  async #block(block: SpoolBlock, signal: AbortSignal): Promise<void> {
    switch (block.kind) {
      case 'messages':
        this.#deps.failpoints.hit('apply.beforeDecode');
        await this.#transactions.messages(block, signal);
        this.#deps.failpoints.hit('apply.afterDecode');
        return undefined;
      case 'relations':
        return this.#transactions.relations(block);
      case 'reset':
        return this.#transactions.reset();
      case 'position':
        if (this.#deps.gate.isReachedAt(block.endLsn)) await this.#stand(signal, block.endLsn);
        return undefined;
      default:
        return block.kind satisfies never;
    }
  }

  async #begin(commitLsn: Lsn, signal: AbortSignal): Promise<boolean> {
    if (this.#deps.gate.isClosedFor(commitLsn)) await this.#stand(signal, commitLsn);
    if (commitLsn === this.#deps.settleBefore) await this.#group.settle();
    this.#commitLsn = commitLsn;
    return commitLsn >= this.#endLsn;
  }

  async #commit(point: CommitPoint): Promise<void> {
    this.#endLsn = point.endLsn;
    await this.#group.endTransaction(point);
  }

  #content(message: ContentMessage, commitLsn: Lsn): void {
    const { tag, bytes, body } = message;
    const { tables } = this.#deps;
    const { batch } = this.#group;
    if (tag === TAG.insert || tag === TAG.update || tag === TAG.delete) {
      const table = tables.take(readRelationOid(bytes, body), commitLsn);
      if (table !== undefined) batch.addRow(table, message);
    } else if (tag === TAG.truncate) {
      const truncated = readTruncate(bytes, body)
        .relationOids.map((oid) => tables.take(oid, commitLsn))
        .filter((table) => table !== undefined);
      if (truncated.length > 0) batch.addTruncate(truncated);
    } else if (tag === TAG.message) {
      this.#logicalMessage(message, commitLsn);
    } else {
      throw new OperatorError('PROTOCOL_VIOLATION', `message ${tag} inside of a transaction`);
    }
  }

  #logicalMessage({ bytes, body, abortedXids }: ContentMessage, commitLsn: Lsn): void {
    const { prefix, content } = readLogicalMessage(bytes, body);
    const { messages, tables } = this.#deps;
    const handler = messages.get(prefix);
    const effect = handler?.({ content, commitLsn, abortedXids, tables: tables.all });
    if (effect !== undefined) this.#group.addEffect(effect);
  }

  /** The spool has nothing more: commit what is complete, and look at the gate. */
  async #idle(signal: AbortSignal): Promise<void> {
    // A failure must not wait for the next change to be seen.
    if (this.#transactions.isInTransaction) {
      await this.#group.job();
      return;
    }
    await this.#group.idle();
    // Whatever comes next commits after what was taken in.
    if (this.#deps.gate.isClosedFor(this.#endLsn)) await this.#stand(signal, this.#endLsn);
  }

  /** The next block; undefined when the gate changed or an empty commit is due before it came. */
  async #nextBlock(signal: AbortSignal): Promise<SpoolBlock | undefined> {
    const { reader, gate, clock } = this.#deps;
    const wake = new AbortController();
    const stop = (): void => wake.abort(WOKEN);
    using _ = gate.onChange(stop);
    // Both may have happened while the last commit was under way.
    signal.throwIfAborted();
    const { isInTransaction } = this.#transactions;
    if (gate.isClosedFor(this.#endLsn) && !isInTransaction) return undefined;
    signal.addEventListener('abort', stop, { once: true });
    if (this.#group.hasEnd && !isInTransaction) {
      clock.sleep(ApplyGroup.emptyCommitMs, wake.signal).then(stop, () => undefined);
    }
    try {
      return await reader.read(wake.signal);
    } catch (error) {
      signal.throwIfAborted();
      if (wake.signal.aborted) return undefined;
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      wake.abort(WOKEN);
    }
  }

  /** Commit, say so, and wait until the gate lets `commitLsn` pass. */
  async #stand(signal: AbortSignal, commitLsn: Lsn): Promise<void> {
    const { gate, tables } = this.#deps;
    await this.#group.settle();
    while (gate.isClosedFor(commitLsn)) {
      signal.throwIfAborted();
      const changed = Promise.withResolvers<void>();
      const stop = (): void => changed.reject(signal.reason);
      using _ = gate.onChange(changed.resolve);
      signal.addEventListener('abort', stop, { once: true });
      gate.stand(this.#group.applied);
      await changed.promise.finally(() => signal.removeEventListener('abort', stop));
    }
    // The verification at this fence may remove marks that were known to be there.
    this.#group.forgetMarks();
    // Everything before is committed and nothing after has begun, so a new loop loses nothing.
    if (tables.isOutdated) throw new TablesOutdated();
  }
}

/** Why a wait ended that nobody waits for any more; one for all, since making an error is not cheap. */
const WOKEN = new Error('woken');

/** See LoopTables. */
class TablesOutdated extends Error {}
