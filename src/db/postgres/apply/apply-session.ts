import type { Lsn } from '#src/core/lsn.ts';
import { quoteLiteral, quoteTable } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { type Failpoints, NO_FAILPOINTS } from '#src/lib/failpoint.ts';
import { ArrayParameters } from '#src/wire/postgres/apply-encoder.ts';
import {
  BACKEND,
  decodeCommandComplete,
  decodeServerMessage,
  rowsOfCommandTag,
  type ServerMessage,
} from '#src/wire/postgres/backend.ts';
import type { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import { MessageWriter } from '#src/wire/postgres/message-writer.ts';
import { isKeyless } from '#src/wire/postgres/net-entry.ts';

import { ApplyPipeline } from './apply-pipeline.ts';
import type { ApplyTable } from './apply-table.ts';
import { PreparedStatements } from './prepared-statements.ts';
import { CHECK_FAILED, type ProgressKind, ProgressStatements } from './progress.ts';
import { asOperatorError, diverged, isOtherClass, RefusedStatement } from './refused-statement.ts';
import { Removals } from './removals.ts';

/**
 * The target's side of following: one connection, one transaction at a time.
 *
 *     apply(batch) … apply(batch), commit(end)      each a round trip; the next batch is decoded meanwhile
 *
 * A transaction begins with the lease (its epoch is read FOR SHARE, trap 20) and ends with the progress
 * (a row of the ledger, which must be where this session left it), so rows and progress cannot part (I3).
 * Both fail on the server when they are not as they must be, so nothing behind them has an effect.
 *
 * Each batch runs behind a savepoint. Affected rows are checked before the commit is sent (trap 12). A
 * unique violation may only come from the compaction: the batch is replayed in the exact order of the
 * source; what fails then is real, and is reported as TABLE_DIVERGED with the table in `detail`.
 */

const SAVEPOINT = 'SAVEPOINT understudy';
const ROLL_BACK_BATCH = 'ROLLBACK TO SAVEPOINT understudy';

/** Bytes sent before the answers of an exact replay are awaited. */
const REPLAY_BYTES = 1024 * 1024;

/** A pipeline's memory is used again unless one huge row made it grow. */
const WRITER_BYTES_KEPT = 32 * 1024 * 1024;

/** Prepared statements are forgotten beyond this number, for the memory of the server. */
const PREPARED_MAX = 1_000;

export type ApplyCommit = {
  readonly endLsn: Lsn;
  /** Statements to run in the same transaction, such as dirty marks. */
  readonly statements: readonly string[];
};

export class ApplySession {
  readonly #connection: WireConnection;
  readonly #shadowId: string;
  readonly #statements: ProgressStatements;
  /** Commit end of the last transaction that is known to be committed. */
  #applied: Lsn;
  readonly #failpoints: Failpoints;
  readonly #prepared = new PreparedStatements();
  readonly #arrays = new ArrayParameters();
  readonly #walker = new FrameWalker();
  readonly #removals = new Removals();
  #writer = new MessageWriter();
  #inTransaction = false;
  #hasSavepoint = false;

  constructor(options: {
    readonly connection: WireConnection;
    readonly shadowId: string;
    readonly epoch: bigint;
    readonly progress: ProgressKind;
    /** The progress on which this session goes on. */
    readonly applied: Lsn;
    readonly failpoints?: Failpoints;
  }) {
    this.#connection = options.connection;
    this.#shadowId = options.shadowId;
    this.#statements = new ProgressStatements(options.shadowId, options.epoch, options.progress);
    this.#applied = options.applied;
    this.#failpoints = options.failpoints ?? NO_FAILPOINTS;
  }

  /** Apply a batch in the open transaction, or in a new one. */
  async apply(batch: ChangeBatch<ApplyTable>): Promise<void> {
    if (this.#prepared.count > PREPARED_MAX) await this.#forgetStatements();
    if (!this.#inTransaction && this.#removals.areTooMany) await this.#dropStaged();
    await this.#knowTables(batch);
    const saved = this.#removals.save();
    try {
      await this.#applySteps(batch);
    } catch (error) {
      if (!(error instanceof RefusedStatement)) throw error;
      if (!error.mayBeOrder) throw error.toOperatorError();
      await this.#query(ROLL_BACK_BATCH);
      this.#removals.restore(saved);
      await this.#forgetStatements();
      this.#failpoints.hit('apply.beforeExact');
      await this.#applyExact(batch);
      this.#failpoints.hit('apply.afterExact');
    }
  }

  /** Commit everything that was applied, together with the progress. Without changes it records progress only. */
  async commit(commit: ApplyCommit): Promise<void> {
    await this.#removeWaiting(this.#removals.waiting()).catch(asOperatorError);
    const pipeline = this.#pipeline();
    this.#begin(pipeline, []);
    for (const statement of commit.statements) pipeline.query([statement]);
    pipeline.query([
      [this.#statements.advance(this.#applied, commit.endLsn), { kind: 'progress' }],
      'COMMIT',
    ]);
    pipeline.commits = true;
    await this.#run(pipeline).catch(asOperatorError);
    this.#applied = commit.endLsn;
    this.#ended();
  }

  async rollback(): Promise<void> {
    if (!this.#inTransaction) return;
    this.#ended();
    await this.#query('ROLLBACK');
    await this.#forgetStatements();
  }

  #ended(): void {
    this.#inTransaction = false;
    this.#hasSavepoint = false;
    this.#removals.ended();
  }

  async #applySteps(batch: ChangeBatch<ApplyTable>): Promise<void> {
    let pipeline = this.#pipeline();
    const release = this.#hasSavepoint ? [`RELEASE ${SAVEPOINT}`] : [];
    this.#begin(pipeline, [...release, SAVEPOINT]);
    this.#hasSavepoint = true;
    for (const step of batch.steps) {
      if (step.kind === 'net') {
        for (const changes of step.tables.values()) pipeline.net(changes);
      } else if (step.kind === 'exact') {
        for (const change of step.changes) pipeline.row(change);
      } else {
        for (const table of step.tables) pipeline.remove(table);
        await this.#run(pipeline);
        await this.#truncate(step.tables);
        pipeline = this.#pipeline();
      }
    }
    await this.#run(pipeline);
  }

  /**
   * No table's rows depend on another's, so those without a key may come last. Their net changes have no
   * other order: what leaves a table goes before what comes, so that no unique value is there twice.
   */
  async #applyExact(batch: ChangeBatch<ApplyTable>): Promise<void> {
    let pipeline = this.#pipeline();
    for (const change of batch.history) {
      if ('tables' in change) {
        await this.#run(pipeline).catch(asOperatorError);
        await this.#truncate(change.tables.filter((table) => !isKeyless(table)));
        pipeline = this.#pipeline();
      } else {
        pipeline.row(change);
        if (pipeline.bytes < REPLAY_BYTES) continue;
        await this.#run(pipeline).catch(asOperatorError);
        pipeline = this.#pipeline();
      }
    }
    for (const step of batch.steps) {
      if (step.kind === 'truncate') {
        for (const table of step.tables) pipeline.remove(table);
        await this.#run(pipeline).catch(asOperatorError);
        await this.#truncate(step.tables.filter(isKeyless));
        pipeline = this.#pipeline();
      } else if (step.kind === 'net') {
        for (const changes of step.tables.values()) {
          if (isKeyless(changes.table)) pipeline.net(changes);
        }
      }
    }
    await this.#run(pipeline).catch(asOperatorError);
  }

  /**
   * TRUNCATE refuses tables that others refer to by foreign key, even when those are empty or not in the
   * dataset; deleting every row is the same under session_replication_role=replica.
   */
  async #truncate(tables: readonly ApplyTable[]): Promise<void> {
    if (tables.length === 0) return;
    this.#failpoints.hit('apply.beforeTruncate');
    const names = tables.map((table) => `${quoteLiteral(quoteTable(table.name))}::regclass`);
    const list = `ARRAY[${names.join(', ')}]::oid[]`;
    try {
      const rows = await this.#query(
        `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint WHERE contype = 'f'
           AND confrelid = ANY (${list}) AND conrelid <> ALL (${list}))::text`,
      );
      if (rows[0]?.[0] === 'true') {
        for (const { name } of tables) await this.#query(`DELETE FROM ONLY ${quoteTable(name)}`);
      } else {
        const only = tables.map(({ name }) => `ONLY ${quoteTable(name)}`);
        await this.#query(`TRUNCATE ${only.join(', ')}`);
      }
    } catch (error) {
      const sqlstate = sqlstateOf(error) ?? '';
      if (sqlstate === '' || isOtherClass(sqlstate)) throw error;
      throw await this.#truncateError(tables, sqlstate);
    }
    this.#failpoints.hit('apply.afterTruncate');
  }

  /** The statement names several tables: the one that is gone is meant, or else the first. */
  async #truncateError(tables: readonly ApplyTable[], sqlstate: string): Promise<unknown> {
    await this.#query('ROLLBACK');
    this.#ended();
    let culprit = tables[0];
    for (const table of tables) {
      const name = quoteLiteral(quoteTable(table.name));
      const rows = await this.#query(`SELECT (pg_catalog.to_regclass(${name}) IS NULL)::text`);
      if (rows[0]?.[0] === 'true') culprit = table;
    }
    return (
      culprit && diverged(culprit, `the target refused TRUNCATE (SQLSTATE ${sqlstate})`, sqlstate)
    );
  }

  #pipeline(): ApplyPipeline {
    if (this.#writer.length > WRITER_BYTES_KEPT) this.#writer = new MessageWriter();
    this.#writer.reset();
    return new ApplyPipeline({
      writer: this.#writer,
      prepared: this.#prepared,
      arrays: this.#arrays,
      removals: this.#removals,
    });
  }

  /** Begin a transaction with the lease if none is open, and run the statements that follow. */
  #begin(pipeline: ApplyPipeline, statements: readonly string[]): void {
    if (!this.#inTransaction) {
      pipeline.query(['BEGIN', [this.#statements.lease, { kind: 'lease' }], ...statements]);
    } else if (statements.length > 0) pipeline.query(statements);
    this.#inTransaction = true;
  }

  async #forgetStatements(): Promise<void> {
    this.#prepared.clear();
    await this.#query('DEALLOCATE ALL');
  }

  async #dropStaged(): Promise<void> {
    await this.#query('DISCARD TEMPORARY');
    this.#removals.dropped();
  }

  /** Learn of each table without a key, once, whether an index of it refuses rows. */
  async #knowTables(batch: ChangeBatch<ApplyTable>): Promise<void> {
    for (const step of batch.steps) {
      if (step.kind !== 'net') continue;
      for (const { table } of step.tables.values()) {
        if (!isKeyless(table) || this.#removals.isKnown(table)) continue;
        const rows = await this.#query(
          `SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE (indisunique OR indisexclusion)
             AND indrelid = pg_catalog.to_regclass(${quoteLiteral(quoteTable(table.name))}))::text`,
        );
        this.#removals.know(table, rows[0]?.[0] === 'true');
      }
    }
  }

  async #removeWaiting(tables: readonly ApplyTable[]): Promise<void> {
    const pipeline = this.#pipeline();
    for (const table of tables) pipeline.remove(table);
    await this.#run(pipeline);
  }

  /** A statement of ours between pipelines. Rows of its only result. */
  async #query(sql: string): Promise<readonly (readonly (string | null)[])[]> {
    const results = await this.#connection.query(sql);
    return results.at(-1)?.rows ?? [];
  }

  /** Send the pipeline while its answers are read: a server that cannot answer stops reading. */
  async #run(pipeline: ApplyPipeline): Promise<void> {
    pipeline.sync();
    if (pipeline.answers === 0) return;
    this.#beforeShapes(pipeline);
    const [outcome] = await Promise.all([this.#receive(pipeline), this.#send(pipeline)]);
    this.#afterShapes(pipeline);
    const { error, rows } = outcome;
    if (error !== undefined) {
      const expectation = pipeline.expectations[rows.length];
      if (expectation?.kind === 'lease' && error.code === CHECK_FAILED) {
        throw new OperatorError('LEASE_LOST', `shadow ${this.#shadowId} has a newer runner`);
      }
      if (expectation?.kind === 'progress' && error.code === CHECK_FAILED) {
        throw new OperatorError(
          'CONNECTION_LOST',
          'the progress is not where this connection left it: what an earlier one had sent was committed since, or the progress is gone',
        );
      }
      throw new RefusedStatement(error, expectation);
    }
    pipeline.expectations.forEach((expectation, i) => {
      if (expectation.kind !== 'rows' || rows[i] === expectation.rows) return;
      const missing = expectation.rows - (rows[i] ?? 0);
      throw diverged(expectation.table, `${missing} of ${expectation.rows} rows are not there`);
    });
  }

  async #send(pipeline: ApplyPipeline): Promise<void> {
    await this.#connection.write(pipeline.take());
    if (pipeline.commits) this.#failpoints.hit('apply.commitSent');
  }

  #beforeShapes({ shapes }: ApplyPipeline): void {
    if (shapes.has('arrays')) this.#failpoints.hit('apply.beforeArrays');
    if (shapes.has('copy')) this.#failpoints.hit('apply.beforeCopy');
    if (shapes.has('row')) this.#failpoints.hit('apply.beforeRow');
  }

  #afterShapes({ shapes }: ApplyPipeline): void {
    if (shapes.has('arrays')) this.#failpoints.hit('apply.afterArrays');
    if (shapes.has('copy')) this.#failpoints.hit('apply.afterCopy');
    if (shapes.has('row')) this.#failpoints.hit('apply.afterRow');
  }

  /** The first error, and how many rows each statement before it touched. */
  async #receive(pipeline: ApplyPipeline): Promise<{
    error: ServerMessage | undefined;
    rows: readonly number[];
  }> {
    const walker = this.#walker;
    const rows: number[] = [];
    let error: ServerMessage | undefined;
    for (let answers = 0; answers < pipeline.answers;) {
      const chunk = await this.#connection.read();
      if (chunk === undefined) {
        throw new OperatorError('CONNECTION_LOST', 'the target closed the connection');
      }
      walker.feed(chunk);
      while (walker.next()) {
        if (walker.tag === BACKEND.readyForQuery) answers += 1;
        else if (walker.tag === BACKEND.errorResponse) error ??= decodeServerMessage(walker);
        else if (walker.tag === BACKEND.commandComplete && error === undefined) {
          rows.push(rowsOfCommandTag(decodeCommandComplete(walker)));
        }
      }
    }
    return { error, rows };
  }
}
