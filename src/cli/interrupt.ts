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

/**
 * A signal that the first SIGINT, SIGTERM or SIGHUP aborts, so that everything stops in order. The
 * second one ends the process at once: whoever asks twice does not want to wait.
 */
export function interruptSignal(process: NodeJS.Process): AbortSignal {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(EXIT_CODES.interrupted);
    controller.abort(new Interrupted('signal'));
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
