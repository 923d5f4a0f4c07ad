import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import { type Stage, STAGES } from '#src/core/schema-script.ts';
import { StepQueue } from '#src/core/step-queue.ts';
import { quoteTable, type TableName } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Row, type Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { retryLostConnections } from '#src/shadow/copy/retry.ts';

import { silenceTriggers } from './adjust.ts';
import { restoreError } from './restore.ts';
import { nameOf, textOf } from './rows.ts';

export type RunStepsOptions = {
  readonly target: Endpoint;
  readonly shadowId: string;
  readonly stages: readonly Stage[];
  /** Sessions at once, in the stages whose steps do not depend on each other. */
  readonly jobs: number;
  /** maintenance_work_mem of each session. */
  readonly maintenanceMemoryMb?: number;
  readonly report: Report;
  readonly failpoints: Failpoints;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
};

/** Within a stage of these, order does not matter. */
const PARALLEL_STAGES: ReadonlySet<Stage> = new Set(['index', 'validate', 'analyze']);
const MAINTENANCE_MEMORY_MB = 256;
/** transaction_timeout exists from here on; a role's own would end a long build. */
const TRANSACTION_TIMEOUT_VERSION = 170_000;

const DEADLOCK = '40P01';
/** Steps beside each other may lock two tables in another order; the server then fails one of them. */
const DEADLOCKS_MAX = 5;

/**
 * Run those steps of `stages` that are not done, stage by stage. A step and the note that it is done are
 * one transaction, so that after a crash the next call goes on where this one was. A lost connection is
 * waited for.
 *
 * Throws SCHEMA_RESTORE_FAILED, which names the object, CONNECTION_FAILED or CONNECTION_LOST for a target
 * that stays away, or the abort's reason, once the server has stopped working on its behalf.
 */
export async function runSteps(options: RunStepsOptions): Promise<void> {
  const failed = new AbortController();
  const run: Run = {
    ...options,
    signal: AbortSignal.any([options.signal, failed.signal]),
    sessions: [],
    done: 0,
    total: 0,
  };
  try {
    const steps = await onSession(run, 0, (session) => readSteps(session, options));
    run.total = steps.length;
    run.done = steps.filter((step) => step.isDone).length;
    for (const stage of STAGES) {
      const pending = steps.filter((step) => step.stage === stage && !step.isDone);
      await runStage(run, stage, pending, (error) => failed.abort(error));
    }
  } finally {
    await Promise.all(run.sessions.map(async (session) => session?.[Symbol.asyncDispose]()));
  }
}

type Run = RunStepsOptions & {
  /** One for each worker, opened when it is needed. */
  readonly sessions: (Session | undefined)[];
  done: number;
  total: number;
};

type RecordedStep = {
  readonly step: number;
  readonly stage: string;
  readonly kind: string;
  readonly object: string;
  readonly statement: string;
  readonly tableName: TableName | undefined;
  readonly table: string | undefined;
  readonly isDone: boolean;
};

/** Large tables first, so that the last worker to finish does not begin its largest piece last. */
const STEPS_SQL = `
SELECT s.step, s.stage, s.kind, s.object, s.statement, s.schema_name AS nspname, s.table_name AS relname,
       s.done_at IS NOT NULL AS is_done
  FROM understudy.step s
  LEFT JOIN pg_namespace n ON n.nspname = s.schema_name
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name
 WHERE s.shadow_id = $1 AND s.stage = ANY ($2::text[])
 ORDER BY CASE WHEN s.stage = ANY ($3::text[]) THEN coalesce(pg_relation_size(c.oid), 0) END DESC NULLS LAST, s.step`;

async function readSteps(
  session: Session,
  options: RunStepsOptions,
): Promise<readonly RecordedStep[]> {
  const { shadowId, stages } = options;
  const rows = await session.query(STEPS_SQL, [shadowId, stages, [...PARALLEL_STAGES]]);
  return rows.map(toStep);
}

function toStep(row: Row): RecordedStep {
  const tableName = row['relname'] === null ? undefined : nameOf(row);
  return {
    step: Number(row['step']),
    stage: textOf(row, 'stage'),
    kind: textOf(row, 'kind'),
    object: textOf(row, 'object'),
    statement: textOf(row, 'statement'),
    tableName,
    table: tableName === undefined ? undefined : quoteTable(tableName),
    isDone: row['is_done'] === 't',
  };
}

/** The first failure stops the other workers and is the one to throw. */
async function runStage(
  run: Run,
  stage: Stage,
  steps: readonly RecordedStep[],
  fail: (error: unknown) => void,
): Promise<void> {
  const queue = new StepQueue(steps);
  const jobs = PARALLEL_STAGES.has(stage) ? Math.min(run.jobs, steps.length) : 1;
  let finished = Promise.withResolvers<void>();
  const work = async (worker: number): Promise<void> => {
    while (!queue.isEmpty) {
      run.signal.throwIfAborted();
      const step = queue.take();
      if (step === undefined) {
        await finished.promise;
        continue;
      }
      try {
        await runStep(run, worker, step);
      } catch (error) {
        fail(error);
        throw error;
      } finally {
        queue.finish(step);
        finished.resolve();
        finished = Promise.withResolvers();
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: jobs }, (_, at) => work(at)));
  if (results.every((result) => result.status === 'fulfilled')) return;
  throw run.signal.reason;
}

async function runStep(run: Run, worker: number, step: RecordedStep): Promise<void> {
  run.log.debug({ stage: step.stage, kind: step.kind, object: step.object }, 'step begins');
  await onSession(run, worker, async (session) => {
    for (let deadlocks = 0; ; deadlocks += 1) {
      try {
        await session.transaction(async () => runRecorded(run, session, step));
        return;
      } catch (error) {
        const isDeadlock = sqlstateOf(error) === DEADLOCK && deadlocks < DEADLOCKS_MAX;
        if (!isDeadlock) throw restoreError(step, error);
        run.log.debug({ object: step.object, deadlocks }, 'deadlock; trying again');
      }
    }
  });
  run.failpoints.hit('step.afterCommit');
  run.done += 1;
  const { stage, object } = step;
  run.report({ type: 'stepFinished', stage, object, done: run.done, total: run.total });
}

async function runRecorded(run: Run, session: Session, step: RecordedStep): Promise<void> {
  const key = [run.shadowId, step.step];
  // Also waits for what is left of an earlier run of ours, whose end the server has not noticed yet.
  const open = await session.query(
    'SELECT FROM understudy.step WHERE shadow_id = $1 AND step = $2 AND done_at IS NULL FOR UPDATE',
    key,
  );
  // It was committed, and the connection lost before we were told.
  if (open.length === 0) return;
  if (step.stage === 'owner') await runOwnership(run, session, step);
  else await session.query(step.statement);
  if (step.stage === 'trigger' && step.tableName !== undefined) {
    await silenceTriggers(session, run.shadowId, step.tableName);
  }
  await session.execute(
    'UPDATE understudy.step SET done_at = now() WHERE shadow_id = $1 AND step = $2',
    key,
  );
  run.failpoints.hit('step.beforeCommit');
}

/** insufficient_privilege, undefined_object, feature_not_supported (of a sequence that belongs to a table). */
const NOT_OURS_TO_GIVE = new Set(['42501', '42704', '0A000']);

/** That a right cannot be given is no reason to have no shadow; it is said. */
async function runOwnership(run: Run, session: Session, step: RecordedStep): Promise<void> {
  await session.query('SAVEPOINT owner');
  try {
    await session.query(step.statement);
  } catch (error) {
    const sqlstate = sqlstateOf(error) ?? '';
    if (!NOT_OURS_TO_GIVE.has(sqlstate)) throw error;
    await session.query('ROLLBACK TO SAVEPOINT owner');
    const kind = step.kind.endsWith('ACL')
      ? 'a grant on'
      : `the owner of ${step.kind.toLowerCase()}`;
    const message = `${kind} ${step.object} is not carried over (SQLSTATE ${sqlstate})`;
    run.report({ type: 'notice', level: 'warn', message });
  }
}

/**
 * Run `work` on the worker's session, on a new one when the connection was lost. An abort ends the server's
 * process: else it would build an index to its end before it noticed that we are gone. Not a mere cancel,
 * which has no effect when it comes between two statements.
 */
async function onSession<T>(
  run: Run,
  worker: number,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  return retryLostConnections(run, async () => {
    const session = (run.sessions[worker] ??= await openStepSession(run));
    const end = (): void => {
      terminate(run, session.processId).catch((error: unknown) => {
        run.log.warn({ processId: session.processId, error }, 'could not end a step');
      });
    };
    run.signal.addEventListener('abort', end, { once: true });
    try {
      run.signal.throwIfAborted();
      return await work(session);
    } catch (error) {
      run.sessions[worker] = undefined;
      await session[Symbol.asyncDispose]();
      throw error;
    } finally {
      run.signal.removeEventListener('abort', end);
    }
  });
}

async function openStepSession(run: Run): Promise<Session> {
  const memoryMb = run.maintenanceMemoryMb ?? MAINTENANCE_MEMORY_MB;
  const session = await openSession(run.target, {
    applicationName: applicationName(run),
    settings: {
      maintenance_work_mem: `${memoryMb}MB`,
      standard_conforming_strings: 'on',
      check_function_bodies: 'off',
      default_tablespace: '',
    },
  });
  if (session.serverVersion >= TRANSACTION_TIMEOUT_VERSION) {
    await session.query('SET transaction_timeout = 0');
  }
  return session;
}

async function terminate(run: Run, processId: number): Promise<void> {
  await using session = await openSession(run.target, { applicationName: 'understudy cancel' });
  await session.query(
    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2',
    [processId, applicationName(run)],
  );
}

function applicationName(run: Run): string {
  return `understudy ${run.shadowId} schema`;
}
