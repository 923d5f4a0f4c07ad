import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Logger } from '#src/lib/log.ts';

/** A server that restarts is back within this, or the run ends and the next one resumes. */
const ABSENCE_MS_MAX = 60_000;
/** Work that breaks its connection again and again is not to be repeated for ever: it may be what breaks it. */
const LOSSES_MAX = 5;
const PAUSE_MS_MIN = 100;
const PAUSE_MS_MAX = 5_000;

export type RetryDeps = {
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
};

/** Repeat `work` while it fails for want of a connection. Throws its last failure, or the abort's reason. */
export async function retryLostConnections<T>(deps: RetryDeps, work: () => Promise<T>): Promise<T> {
  let losses = 0;
  let pauseMs = PAUSE_MS_MIN;
  let absentSince: number | undefined;
  for (;;) {
    deps.signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      deps.signal.throwIfAborted();
      if (!isConnectionTrouble(error)) throw error;
      // A connection that was made and lost shows that the server was there in between.
      if (error.code === 'CONNECTION_LOST') {
        losses += 1;
        absentSince = undefined;
      }
      absentSince ??= deps.clock.now();
      if (losses >= LOSSES_MAX || deps.clock.now() - absentSince > ABSENCE_MS_MAX) throw error;
      deps.log.warn({ code: error.code, losses, pauseMs }, 'connection trouble; trying again');
      await deps.clock.sleep(pauseMs, deps.signal);
      pauseMs = Math.min(PAUSE_MS_MAX, pauseMs * 2);
    }
  }
}

function isConnectionTrouble(error: unknown): error is OperatorError {
  return (
    error instanceof OperatorError &&
    (error.code === 'CONNECTION_LOST' || error.code === 'CONNECTION_FAILED')
  );
}
