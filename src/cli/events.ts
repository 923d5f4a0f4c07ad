import type { ProgressEvent } from '#src/core/progress.ts';

/** What only the demo reports, beside the events of the clone and the verification that it runs. */
export type DemoEvent =
  | {
      readonly type: 'serverStarted';
      readonly role: 'production' | 'shadow';
      /** As the server prints it, such as 18.4. */
      readonly version: string;
      /** Holds the demo's own throw-away password, so that it can be used as it stands. */
      readonly url: string;
    }
  | {
      readonly type: 'shopLoaded';
      readonly tables: number;
      readonly rows: number;
      readonly elapsedMs: number;
    }
  | {
      readonly type: 'loadProgress';
      readonly transactions: number;
      /** Rolled back because the shop wanted it so; not a failure. */
      readonly rolledBack: number;
      /** Refused by the server: a shadow must never cause one. */
      readonly failed: number;
    };

/** Everything that a running command may report while it works. */
export type CliEvent = ProgressEvent | DemoEvent;
