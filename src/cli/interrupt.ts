import { EXIT_CODES } from '#src/lib/errors.ts';

/** Why `Shell.signal` was aborted. Not an error of ours: stopping is what was asked for. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly by: 'signal' | 'output closed';

  constructor(by: 'signal' | 'output closed') {
    super(`stopped: ${by}`);
    this.by = by;
  }
}

/** The line that --json prints then. */
export type Interruption = { readonly type: 'interrupted'; readonly hint: string };

/** npm passes Ctrl-C on to a process that the terminal has told already: within this time it is one wish. */
const SAME_WISH_MS = 500;

/**
 * A signal that the first SIGINT, SIGTERM or SIGHUP aborts, so that everything stops in order. The
 * second one ends the process at once: whoever asks twice does not want to wait.
 */
export function interruptSignal(process: NodeJS.Process): AbortSignal {
  const controller = new AbortController();
  let firstMs = -Infinity;
  const onSignal = (): void => {
    const nowMs = performance.now();
    if (!controller.signal.aborted) {
      firstMs = nowMs;
      controller.abort(new Interrupted('signal'));
    } else if (nowMs - firstMs > SAME_WISH_MS) {
      process.exit(EXIT_CODES.interrupted);
    }
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, onSignal);
  // `understudy status | head`: the reader left, so there is nobody to work for.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      controller.abort(new Interrupted('output closed'));
    });
  }
  return controller.signal;
}
