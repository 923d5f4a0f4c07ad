import type { ProgressEvent } from '#src/core/progress.ts';

/** What only the demo reports, beside the events of the clone and the verification that it runs. */
export type LoadProgress = {
  readonly type: 'loadProgress';
  /** Committed ones. */
  readonly transactions: number;
  /** Rolled back because the shop wanted it so; not a failure. */
  readonly rolledBack: number;
  /** Refused by the server: a shadow must never cause one. */
  readonly failed: number;
};

/** Everything that a running command may report while it works. */
export type CliEvent = ProgressEvent | LoadProgress;
