import type { Lsn } from '#src/core/lsn.ts';
import type { ApplySession } from '#src/db/postgres/apply/apply-session.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { SpoolBlock } from '#src/stream/spool/format.ts';
import { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { commitTimeMs, type CommitPoint } from '#src/wire/postgres/pgoutput.ts';

import { DirtyMarks } from './dirty-marks.ts';
import type { FollowedTable } from './followed-table.ts';
import type { MessageEffect } from './logical-messages.ts';

export type ApplyGroupDeps = {
  readonly shadowId: string;
  readonly session: Pick<ApplySession, 'apply' | 'commit' | 'rollback'>;
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
  /** That logical messages asked for. */
  statements: string[];
};

/**
 * The source transactions that one transaction of the target will hold: collected into batches, each of
 * which is applied while the next one is collected, and committed at the end of a source transaction.
 */
export class ApplyGroup {
  static readonly emptyCommitMs = EMPTY_COMMIT_MS;
  readonly #deps: ApplyGroupDeps;
  readonly #marks: DirtyMarks;
  #group: Group = emptyGroup();
  #job: Promise<void> = Promise.resolve();
  #applied: Lsn;
  #committedAtMs = 0;

  constructor(deps: ApplyGroupDeps, applied: Lsn) {
    this.#deps = deps;
    this.#applied = applied;
    this.#marks = new DirtyMarks(deps.shadowId);
  }

  /** Commit end of the last transaction that is committed on the target. */
  get applied(): Lsn {
    return this.#applied;
  }

  /** To which the next changes are added. */
  get batch(): ChangeBatch<FollowedTable> {
    return this.#group.batch;
  }

  /** Whether a transaction is complete that is not committed on the target. */
  get hasEnd(): boolean {
    return this.#group.end !== undefined;
  }

  get isBatchLarge(): boolean {
    const { batch, blockBytes } = this.#group;
    return (
      batch.rows >= BATCH_ROWS_MAX ||
      batch.bytes >= BATCH_BYTES_MAX ||
      (blockBytes >= BATCH_BLOCK_BYTES_MAX && batch.rows > 0)
    );
  }

  /** Rows of this block may come into the batch. */
  holdBlock({ bytes }: SpoolBlock): void {
    const group = this.#group;
    group.blockBytes = bytes.length + (group.batch.rows === 0 ? 0 : group.blockBytes);
  }

  addEffect({ statements, heartbeatMs }: MessageEffect): void {
    if (statements !== undefined) this.#group.statements.push(...statements);
    this.#group.heartbeatMs = heartbeatMs ?? this.#group.heartbeatMs;
  }

  /** All of a transaction has been added. */
  async endTransaction(point: CommitPoint): Promise<void> {
    const group = this.#group;
    group.end = point;
    group.transactions += 1;
    // Of a transaction that needed several batches, the last one need not be large.
    if (this.isBatchLarge || group.rows > 0) await this.#submitCommit();
  }

  /** Apply what was collected, within the transaction of the target; what follows is another batch. */
  async submitBatch(): Promise<void> {
    const group = this.#group;
    const { batch } = group;
    group.batch = new ChangeBatch();
    group.blockBytes = 0;
    group.rows += batch.rows;
    await this.#submit(async () => this.#applyBatch(batch));
  }

  /** Nothing more has come, between two transactions: commit what is worth it. */
  async idle(): Promise<void> {
    const group = this.#group;
    const hasWork = group.batch.rows > 0 || group.rows > 0 || group.statements.length > 0;
    const sinceMs = this.#deps.clock.now() - this.#committedAtMs;
    if (hasWork || (this.hasEnd && sinceMs >= EMPTY_COMMIT_MS)) await this.#submitCommit();
    if (!this.hasEnd) await this.#job;
  }

  /** Wait for what is under way. */
  async job(): Promise<void> {
    await this.#job;
  }

  /** That of what is under way, once it has ended. */
  async failure(): Promise<unknown> {
    return this.#job.then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  /** Everything complete is committed when this returns. */
  async settle(): Promise<void> {
    await this.#submitCommit();
    await this.#job;
  }

  /** A fence is over: marks that were known to be in the ledger may be gone. */
  forgetMarks(): void {
    this.#marks.forget();
  }

  async rollback(): Promise<void> {
    await this.#job.catch(() => undefined);
    await this.#deps.session.rollback().catch(() => undefined);
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
        statements: [...group.statements, ...this.#marks.statements(end.endLsn)],
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
}

function emptyGroup(): Group {
  return {
    batch: new ChangeBatch(),
    blockBytes: 0,
    transactions: 0,
    rows: 0,
    end: undefined,
    heartbeatMs: undefined,
    statements: [],
  };
}
