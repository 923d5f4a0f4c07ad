import type { Lsn } from '#src/core/lsn.ts';
import { quoteTable } from '#src/core/table.ts';
import type { ApplySession } from '#src/db/postgres/apply/apply-session.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { SpoolBlock } from '#src/stream/spool/format.ts';
import type { SpoolReader } from '#src/stream/spool/reader.ts';
import { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import {
  commitTimeMs,
  type CommitPoint,
  readBeginCommitLsn,
  readCommit,
  readIsFirstBlock,
  readLogicalMessage,
  readRelation,
  readRelationOid,
  readStreamAbort,
  readStreamCommit,
  readTruncate,
  readXid,
  TAG,
} from '#src/wire/postgres/pgoutput.ts';

import type { ApplyGate } from './apply-gate.ts';
import { DirtyMarks } from './dirty-marks.ts';
import { describeShapeChange, type FollowedTable } from './followed-table.ts';
import { HEARTBEAT_PREFIX } from './heartbeat.ts';
import { OpenStreams } from './open-streams.ts';

/**
 * Reads the spool and applies it: whole source transactions in commit order, many in one transaction of
 * the target, one at a time.
 *
 *     spool ─► decode ─► batch (compacted) ─► apply … apply ─► commit at a source commit
 *                          10,000 rows or 8 MB   └ the next batch is decoded meanwhile
 *
 * A group ends when it is large enough or when the spool has nothing more, so that grouping costs no
 * time when caught up. A transaction larger than a batch is applied batch by batch inside one transaction
 * of the target, and is never held (trap 17). A streamed transaction is left in the spool until its
 * commit; only where its blocks are is remembered.
 *
 * Skipped are: transactions that the target has committed already (their commit record starts before the
 * progress, which is a commit's end), and changes of a table that its copy already holds.
 */
export type ApplyLoopDeps = {
  readonly shadowId: string;
  readonly session: Pick<ApplySession, 'apply' | 'commit' | 'rollback'>;
  readonly reader: Pick<SpoolReader, 'tryRead' | 'read' | 'readAt'>;
  /** By source OID. */
  readonly tables: ReadonlyMap<number, FollowedTable>;
  readonly gate: ApplyGate;
  readonly clock: Clock;
  readonly failpoints: Failpoints;
  /** After each commit on the target has returned. */
  readonly onApplied: (applied: Applied) => void;
};

export type Applied = {
  readonly endLsn: Lsn;
  readonly transactions: number;
  readonly rows: number;
  /** When the source committed the last of them; its clock, milliseconds since the Unix epoch. */
  readonly commitTimeMs: number;
  /** When we sent the last heartbeat among them; our clock. */
  readonly heartbeatMs: number | undefined;
};

const BATCH_ROWS_MAX = 10_000;
const BATCH_BYTES_MAX = 8 * 1024 * 1024;
/** A batch keeps the blocks alive that its rows lie in, also where most of them is skipped. */
const BATCH_BLOCK_BYTES_MAX = 32 * 1024 * 1024;
/** Empty transactions alone move the progress at most this often. */
const EMPTY_COMMIT_MS = 1_000;

type Transaction = {
  readonly commitLsn: Lsn;
  readonly isSkipped: boolean;
};

/** What the next commit on the target will hold, beyond the current batch. */
type Group = {
  batch: ChangeBatch<FollowedTable>;
  /** Of the blocks that were read for the batch. */
  blockBytes: number;
  transactions: number;
  /** Of earlier batches. */
  rows: number;
  /** The last transaction that is complete. */
  end: CommitPoint | undefined;
  heartbeatMs: number | undefined;
};

export class ApplyLoop {
  readonly #deps: ApplyLoopDeps;
  readonly #marks: DirtyMarks;
  readonly #shapeChanges = new Map<number, string>();
  readonly #streams = new OpenStreams();
  /** Commit ends of the last transactions committed on the target, and taken in. */
  #applied: Lsn;
  #endLsn: Lsn;
  #transaction: Transaction | undefined;
  #group: Group = emptyGroup();
  #job: Promise<void> = Promise.resolve();
  #committedAtMs = 0;

  constructor(deps: ApplyLoopDeps, applied: Lsn) {
    this.#deps = deps;
    this.#applied = applied;
    this.#endLsn = applied;
    this.#marks = new DirtyMarks(deps.shadowId);
  }

  /**
   * Apply until aborted, or until something stops it; whatever is not committed then is rolled back.
   * Returns when the tables must be read again: a repair may have made a stopped one follow.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { reader, session } = this.#deps;
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
      if (!(error instanceof TablesOutdated)) throw error;
    } finally {
      await this.#job.catch(() => undefined);
      await session.rollback().catch(() => undefined);
    }
  }

  async #block(block: SpoolBlock, signal: AbortSignal): Promise<void> {
    switch (block.kind) {
      case 'messages':
        return this.#messages(block, signal);
      case 'relations':
        return this.#relations(block);
      case 'reset':
        return this.#reset();
      case 'position':
        if (this.#deps.gate.isReachedAt(block.endLsn)) await this.#stand(signal, block.endLsn);
        return undefined;
      default:
        return block.kind satisfies never;
    }
  }

  async #messages(block: SpoolBlock, signal: AbortSignal): Promise<void> {
    const { bytes, offsets } = block;
    this.#holdBlock(block);
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
          // Without a promise for each row, of which there are many.
          this.#content(tag, bytes, { body: at + 1, end: offsets[2 * i + 1] ?? 0 });
          if (this.#isBatchLarge()) await this.#submitBatch();
      }
    }
    this.#streams.endExtent(block, block.count);
  }

  /** R, I, U, D, T, M, O, Y: what is between a transaction's begin and commit. */
  #content(
    tag: number,
    bytes: Buffer,
    message: { readonly body: number; readonly end: number },
  ): void {
    const { body, end } = message;
    if (tag === TAG.relation) {
      this.#relation(bytes, body);
      return;
    }
    const transaction = this.#transaction;
    if (transaction === undefined) {
      // Not transactional, and not ours.
      if (tag === TAG.message) return;
      throw new OperatorError('PROTOCOL_VIOLATION', `change ${tag} outside of a transaction`);
    }
    if (transaction.isSkipped) return;
    if (tag === TAG.insert || tag === TAG.update || tag === TAG.delete) {
      const table = this.#tableFor(readRelationOid(bytes, body), transaction);
      if (table !== undefined) this.#group.batch.addRow(table, { tag, bytes, body, end });
    } else if (tag === TAG.truncate) {
      const tables = readTruncate(bytes, body)
        .relationOids.map((oid) => this.#tableFor(oid, transaction))
        .filter((table) => table !== undefined);
      if (tables.length > 0) this.#group.batch.addTruncate(tables);
    } else if (tag === TAG.message) {
      this.#logicalMessage(bytes, body);
    } else if (tag !== TAG.origin && tag !== TAG.type) {
      throw new OperatorError('PROTOCOL_VIOLATION', `message ${tag} inside of a transaction`);
    }
  }

  /** The table that a change goes to, or undefined when it is skipped. */
  #tableFor(oid: number, transaction: Transaction): FollowedTable | undefined {
    const table = this.#deps.tables.get(oid);
    if (table === undefined) {
      throw new OperatorError(
        'PUBLICATION_CHANGED',
        `the publication sends relation ${oid}, which is not of this shadow`,
        { detail: { relation: oid } },
      );
    }
    if (table.isStopped || transaction.commitLsn < table.startLsn) return undefined;
    const change = this.#shapeChanges.get(oid);
    if (change === undefined) return table;
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(table.name)} was changed on the source: ${change}`,
      { detail: { relation: oid } },
    );
  }

  #relation(bytes: Buffer, body: number): void {
    const relation = readRelation(bytes, body);
    const table = this.#deps.tables.get(relation.oid);
    const change = table === undefined ? undefined : describeShapeChange(table, relation);
    if (change === undefined) this.#shapeChanges.delete(relation.oid);
    else this.#shapeChanges.set(relation.oid, change);
  }

  /** What holds for everybody from here on; messages without an xid. */
  #relations(block: SpoolBlock): void {
    for (let i = 0; i < block.count; i++) {
      const at = block.offsets[2 * i] ?? 0;
      if (block.bytes[at] === TAG.relation) this.#relation(block.bytes, at + 1);
    }
  }

  /** A new connection: the source sends again what was not complete. */
  #reset(): void {
    this.#streams.clear();
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (transaction === undefined || transaction.isSkipped) return;
    // Part of it is in the batch, perhaps applied already. The loop begins again from the progress.
    throw new OperatorError('CONNECTION_LOST', 'a transaction was cut off by a new connection');
  }

  async #begin(commitLsn: Lsn, signal: AbortSignal): Promise<void> {
    if (this.#deps.gate.isClosedFor(commitLsn)) await this.#stand(signal, commitLsn);
    this.#transaction = { commitLsn, isSkipped: commitLsn < this.#endLsn };
  }

  async #commit(point: CommitPoint): Promise<void> {
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (transaction === undefined || transaction.isSkipped) return;
    const group = this.#group;
    group.end = point;
    this.#endLsn = point.endLsn;
    group.transactions += 1;
    // Of a transaction that needed several batches, the last one need not be large.
    if (this.#isBatchLarge() || group.rows > 0) await this.#submitCommit();
  }

  /** The whole transaction, out of the spool, as if it came now. */
  async #streamCommit(point: CommitPoint & { readonly xid: number }, signal: AbortSignal) {
    await this.#begin(point.commitLsn, signal);
    if (this.#transaction?.isSkipped === true) {
      this.#streams.forget(point.xid);
    } else {
      const { extents, abortedXids } = this.#streams.take(point.xid);
      let block: SpoolBlock | undefined;
      for (const { position, from, to } of extents) {
        // Small pieces of several streams may share a block.
        const isSame =
          block?.position.segment === position.segment && block.position.offset === position.offset;
        if (block === undefined || !isSame) {
          signal.throwIfAborted();
          block = await this.#deps.reader.readAt(position);
          this.#holdBlock(block);
        }
        await this.#replay(block, { from, to }, abortedXids);
      }
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
      // Rolled back to a savepoint after it was streamed; a Relation is true all the same.
      if (tag !== TAG.relation && abortedXids.has(readXid(bytes, at))) continue;
      this.#content(tag, bytes, { body: at + 5, end: offsets[2 * i + 1] ?? 0 });
      if (this.#isBatchLarge()) await this.#submitBatch();
    }
  }

  #logicalMessage(bytes: Buffer, body: number): void {
    const { prefix, content } = readLogicalMessage(bytes, body);
    if (prefix !== HEARTBEAT_PREFIX) return;
    const [shadowId, sentMs] = content.split(' ');
    if (shadowId === this.#deps.shadowId) this.#group.heartbeatMs = Number(sentMs);
  }

  #isBatchLarge(): boolean {
    const { batch, blockBytes } = this.#group;
    return (
      batch.rows >= BATCH_ROWS_MAX ||
      batch.bytes >= BATCH_BYTES_MAX ||
      (blockBytes >= BATCH_BLOCK_BYTES_MAX && batch.rows > 0)
    );
  }

  /** Rows of this block may come into the batch. */
  #holdBlock({ bytes }: SpoolBlock): void {
    const group = this.#group;
    group.blockBytes = bytes.length + (group.batch.rows === 0 ? 0 : group.blockBytes);
  }

  async #submitBatch(): Promise<void> {
    const group = this.#group;
    const { batch } = group;
    group.batch = new ChangeBatch();
    group.blockBytes = 0;
    group.rows += batch.rows;
    await this.#submit(async () => this.#applyBatch(batch));
  }

  async #applyBatch(batch: ChangeBatch<FollowedTable>): Promise<void> {
    if (batch.rows === 0) return;
    this.#deps.failpoints.hit('apply.beforeBatch');
    this.#marks.add(batch);
    await this.#deps.session.apply(batch);
    this.#deps.failpoints.hit('apply.afterBatch');
  }

  async #submitCommit(): Promise<void> {
    const group = this.#group;
    const { end } = group;
    if (end === undefined) return;
    this.#group = emptyGroup();
    await this.#submit(async () => {
      await this.#applyBatch(group.batch);
      const { session, failpoints, clock, onApplied } = this.#deps;
      failpoints.hit('apply.beforeCommit');
      await session.commit({
        endLsn: end.endLsn,
        commitTimeMs: commitTimeMs(end.commitTime),
        statements: this.#marks.statements(end.endLsn),
      });
      failpoints.hit('apply.afterCommit');
      this.#marks.committed();
      this.#applied = end.endLsn;
      this.#committedAtMs = clock.now();
      onApplied({
        endLsn: end.endLsn,
        transactions: group.transactions,
        rows: group.rows + group.batch.rows,
        commitTimeMs: commitTimeMs(end.commitTime),
        heartbeatMs: group.heartbeatMs,
      });
    });
  }

  /** One job is under way while the next batch is decoded; a failure comes out at the next submission. */
  async #submit(job: () => Promise<void>): Promise<void> {
    await this.#job;
    this.#job = job();
    this.#job.catch(() => undefined);
  }

  /** Everything complete is committed when this returns. */
  async #settle(): Promise<void> {
    await this.#submitCommit();
    await this.#job;
  }

  /** The spool has nothing more: commit what is complete, and look at the gate. */
  async #idle(signal: AbortSignal): Promise<void> {
    // A failure must not wait for the next change to be seen.
    if (this.#transaction !== undefined) {
      await this.#job;
      return;
    }
    const hasRows = this.#group.batch.rows > 0 || this.#group.rows > 0;
    if (hasRows || this.#isEmptyCommitDue()) await this.#submitCommit();
    if (this.#group.end === undefined) await this.#job;
    if (this.#deps.gate.isClosedNow) await this.#stand(signal);
  }

  #isEmptyCommitDue(): boolean {
    const sinceMs = this.#deps.clock.now() - this.#committedAtMs;
    return this.#group.end !== undefined && sinceMs >= EMPTY_COMMIT_MS;
  }

  /** The next block; undefined when the gate changed or an empty commit is due before it came. */
  async #nextBlock(signal: AbortSignal): Promise<SpoolBlock | undefined> {
    const { reader, gate, clock } = this.#deps;
    const wake = new AbortController();
    const stop = (): void => wake.abort(WOKEN);
    using _ = gate.onChange(stop);
    // Both may have happened while the last commit was under way.
    signal.throwIfAborted();
    if (gate.isClosedNow && this.#transaction === undefined) return undefined;
    signal.addEventListener('abort', stop, { once: true });
    if (this.#group.end !== undefined && this.#transaction === undefined) {
      clock.sleep(EMPTY_COMMIT_MS, wake.signal).then(stop, () => undefined);
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

  /** Commit, say so, and wait until the gate lets `commitLsn` (or, without one, anything) pass. */
  async #stand(signal: AbortSignal, commitLsn?: Lsn): Promise<void> {
    const { gate } = this.#deps;
    await this.#settle();
    const mustStand = (): boolean =>
      commitLsn === undefined ? gate.isClosedNow : gate.isClosedFor(commitLsn);
    while (mustStand()) {
      signal.throwIfAborted();
      const changed = Promise.withResolvers<void>();
      const stop = (): void => changed.reject(signal.reason);
      using _ = gate.onChange(changed.resolve);
      signal.addEventListener('abort', stop, { once: true });
      gate.stand(this.#applied);
      await changed.promise.finally(() => signal.removeEventListener('abort', stop));
    }
    // The verification at this fence may remove marks that were known to be there.
    this.#marks.forget();
    // Everything before is committed and nothing after has begun, so a new loop loses nothing.
    if ([...this.#deps.tables.values()].some(({ isStopped }) => isStopped)) {
      throw new TablesOutdated();
    }
  }
}

/** Why a wait ended that nobody waits for any more; one for all, since making an error is not cheap. */
const WOKEN = new Error('woken');

/** A stopped table may have been repaired at the fence that is over. */
class TablesOutdated extends Error {}

function emptyGroup(): Group {
  return {
    batch: new ChangeBatch(),
    blockBytes: 0,
    transactions: 0,
    rows: 0,
    end: undefined,
    heartbeatMs: undefined,
  };
}
