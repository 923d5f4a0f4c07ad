import type { Clock } from '#src/lib/clock.ts';

/** An output stream as the commands see it; `isTTY` is what decides between pictures and plain lines. */
export type OutputStream = NodeJS.WritableStream & {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
  readonly hasColors?: () => boolean;
};

/** What a command gets from its process. */
export type Shell = {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly clock: Clock;
  /** Aborted by the first Ctrl-C, SIGTERM or SIGHUP, and when nobody reads our output any more. */
  readonly signal: AbortSignal;
};
