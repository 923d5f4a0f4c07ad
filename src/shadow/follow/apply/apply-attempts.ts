import type { Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Logger } from '#src/lib/log.ts';

/** What an attempt at applying leaves to the next. */
export type Memory = {
  /** Since when it applies; undefined until then. */
  runningAtMs: number | undefined;
  /** The transaction that it was reading. */
  begunLsn: () => Lsn | undefined;
  /** See ApplyLoopDeps. */
  settleBefore: Lsn | undefined;
};

type Outcome = 'again' | 'done';

/** An attempt that ran for so long was no failure; the next one has all of its time. */
const WORKED_MS = 10_000;
/** How long a lost target is waited for. */
const GIVE_UP_MS = 60_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;
/** About a second after the first. */
const TOLD_FAILURES = 4;

/**
 * Attempt until one is done, or until it cannot go on: after what `mend` could mend at once, and after a
 * pause where the failure may pass by itself.
 */
export async function repeatAttempts(
  deps: { readonly clock: Clock; readonly log: Logger; readonly report: Report },
  work: {
    readonly attempt: (memory: Memory) => Promise<Outcome>;
    /** What to do after this failure; undefined when it is not one to be mended. */
    readonly mend: (error: OperatorError) => Promise<Outcome | undefined>;
  },
  signal: AbortSignal,
): Promise<void> {
  const { clock } = deps;
  const memory: Memory = {
    runningAtMs: undefined,
    begunLsn: () => undefined,
    settleBefore: undefined,
  };
  let retryMs = RETRY_FIRST_MS;
  let brokenAtMs: number | undefined;
  let failures = 0;
  for (;;) {
    memory.runningAtMs = undefined;
    memory.begunLsn = () => undefined;
    try {
      if ((await work.attempt(memory)) === 'done') return;
      brokenAtMs = undefined;
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof LeftInDoubt) throw error.cause;
      if (mustSettleFirst(memory, error)) continue;
      const mended = await mend(work, error);
      if (mended.outcome === 'done') return;
      if (mended.outcome === 'again') continue;
      if (mended.failure instanceof LeftInDoubt) throw mended.failure.cause;
      const now = clock.now();
      const { runningAtMs } = memory;
      const hasWorked = runningAtMs !== undefined && now - runningAtMs > WORKED_MS;
      if (brokenAtMs === undefined || hasWorked) {
        brokenAtMs = now;
        retryMs = RETRY_FIRST_MS;
        failures = 0;
      }
      if (!isTransient(mended.failure) || now - brokenAtMs > GIVE_UP_MS) throw mended.failure;
      failures += 1;
      tell(deps, mended.failure, { retryMs, failures });
      await clock.sleep(retryMs, signal);
      retryMs = Math.min(2 * retryMs, RETRY_MAX_MS);
    }
  }
}

/** A connection that is lost for a moment is for the log; what stays, an operator may have to end. */
function tell(
  deps: Parameters<typeof repeatAttempts>[0],
  failure: unknown,
  { retryMs, failures }: { readonly retryMs: number; readonly failures: number },
): void {
  const code = failure instanceof OperatorError ? failure.code : 'unknown';
  deps.log.warn({ code, retryMs }, 'applying was interrupted');
  if (failures !== TOLD_FAILURES || !(failure instanceof OperatorError)) return;
  const message = `changes cannot be applied for now: ${failure.message}; trying again`;
  deps.report({ type: 'notice', level: 'warn', message });
}

/** The failure to judge is that of the mending, where that failed. */
async function mend(
  work: Parameters<typeof repeatAttempts>[1],
  error: unknown,
): Promise<{ readonly outcome: Outcome | undefined; readonly failure: unknown }> {
  if (!(error instanceof OperatorError)) return { outcome: undefined, failure: error };
  try {
    return { outcome: await work.mend(error), failure: error };
  } catch (failure) {
    return { outcome: undefined, failure };
  }
}

/**
 * A table that was changed stops right before the transaction that shows it, and not before all of a
 * group: then what is left of it in the spool has the new shape from its first change on.
 */
function mustSettleFirst(memory: Memory, error: unknown): boolean {
  if (!(error instanceof OperatorError) || error.code !== 'TABLE_CHANGED') return false;
  const begun = memory.begunLsn();
  if (begun === undefined || memory.settleBefore === begun) return false;
  memory.settleBefore = begun;
  return true;
}

/**
 * Whether the ledger was changed is not known, and may be decided any time yet. What is applied before that
 * could make the change untrue, so this ends following, and not just the attempt at applying: the next run
 * has a newer epoch of the lease, for which it waits until our transaction is over, and without which
 * that has no effect.
 */
export class LeftInDoubt extends Error {
  constructor(cause: unknown) {
    super('it is not known whether the ledger was changed', { cause });
  }
}

/** The result of a change of the ledger that holds the lease. Throws LeftInDoubt unless the server refused it. */
export async function decided<T>(change: Promise<T>): Promise<T> {
  try {
    return await change;
  } catch (error) {
    throw sqlstateOf(error) === undefined ? new LeftInDoubt(error) : error;
  }
}

/** Failures that come from outside of the data: connections, deadlocks, resources, a server that restarts. */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof OperatorError)) return false;
  if (error.code === 'CONNECTION_LOST' || error.code === 'CONNECTION_FAILED') return true;
  const sqlstate = sqlstateOf(error) ?? '';
  return ['08', '40', '53', '57'].includes(sqlstate.slice(0, 2)) || sqlstate === '55P03';
}
