import { EXIT_CODES, OperatorError } from '#src/lib/errors.ts';
import { createLogger, type Logger, type LogLevel } from '#src/lib/log.ts';

import { Interrupted, type Interruption } from './interrupt.ts';
import type { Shell } from './shell.ts';
import { createScreen, type Screen } from './terminal/screen.ts';

/** A command at work. */
export type Run = {
  readonly screen: Screen;
  readonly log: Logger;
  readonly signal: AbortSignal;
};

/** The exit code of a command that ended by itself. */
export type Work = (run: Run) => Promise<number>;

export type RunOptions = {
  readonly title: string;
  readonly json?: true;
  readonly logLevel?: LogLevel;
  /** What an interrupt leaves and what to do next. */
  readonly afterInterrupt: string;
  /** For a command that runs until it is stopped and judges that itself. */
  readonly isEndedByInterrupt?: boolean;
  /** For a command that only reads: it has nothing to bring to an end, so nobody waits for it. */
  readonly isAbandonedByInterrupt?: boolean;
};

/**
 * Do the work of a command on a screen, and give its exit code. An interrupt is an ending of its own,
 * whatever the work made of it: what failed because it was told to stop is no failure.
 */
export async function runCommand(shell: Shell, options: RunOptions, work: Work): Promise<number> {
  const screen = createScreen({
    stdout: shell.stdout,
    clock: shell.clock,
    isJson: options.json === true,
    isLiveAllowed: options.logLevel === undefined && shell.env['TERM'] !== 'dumb',
    title: options.title,
  });
  // Warnings reach the live region as notices; their log lines would tear it apart.
  const isLive = options.json !== true && shell.stdout.isTTY === true;
  const log = createLogger(options.logLevel ?? (isLive ? 'silent' : 'warn'));
  shell.signal.addEventListener('abort', screen.stopping, { once: true });
  try {
    const working = work({ screen, log, signal: shell.signal });
    const exitCode = await (options.isAbandonedByInterrupt === true
      ? Promise.race([working, rejectOnAbort(shell.signal)])
      : working);
    if (!shell.signal.aborted || exitCode !== EXIT_CODES.ok) return exitCode;
    if (options.isEndedByInterrupt === true) return exitCode;
  } catch (error) {
    if (!shell.signal.aborted || !isStopping(error)) throw error;
  } finally {
    screen.end();
  }
  printInterrupted(shell, options);
  return EXIT_CODES.interrupted;
}

async function rejectOnAbort(signal: AbortSignal): Promise<never> {
  signal.throwIfAborted();
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** The ways in which "stop" comes back out of the work: the abort itself, or a connection closed under it. */
function isStopping(error: unknown): boolean {
  if (error instanceof OperatorError) return error.code === 'CONNECTION_LOST';
  return error instanceof Interrupted || (error instanceof Error && error.name === 'AbortError');
}

function printInterrupted(shell: Shell, options: RunOptions): void {
  const { reason } = shell.signal;
  if (reason instanceof Interrupted && reason.by === 'output closed') return;
  const hint = options.afterInterrupt;
  if (options.json === true) {
    const time = new Date(shell.clock.now()).toISOString();
    const line: Interruption = { type: 'interrupted', hint };
    shell.stdout.write(`${JSON.stringify({ ...line, time })}\n`);
  } else {
    shell.stderr.write(`interrupted: ${hint}\n`);
  }
}
