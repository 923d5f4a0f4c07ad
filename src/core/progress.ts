import type { TableName } from './table.ts';

/** The phases of a shadow, in order; `understudy.shadow.phase` on the target holds one of them. */
export type Phase =
  | 'preparing' // slot, snapshot, schema before the data
  | 'copying'
  | 'indexing' // indexes, constraints, foreign keys, triggers, statistics
  | 'catching up'
  | 'following'
  | 'complete' // a clone without --follow that has ended
  | 'stopped'; // needs an operator; stop_code and stop_message say why

/** The lag ladder: five facts that are never the same one. Positions as text LSNs. */
export type Lag = {
  readonly sourceHeadLsn: string;
  readonly sentLsn: string;
  readonly receivedLsn: string;
  /** Flushed to the spool; what may be confirmed to the source. */
  readonly durableLsn: string;
  /** Committed on the target. */
  readonly appliedLsn: string;
  /** Source head minus applied, in WAL bytes. */
  readonly lagBytes: number;
  /** Age of the newest applied source commit while behind, else 0. */
  readonly lagMs: number;
  readonly transactionsApplied: number;
  readonly rowsApplied: number;
  readonly spoolBytes: number;
  readonly sourceWalBytes: number;
  readonly sourceWalBytesMax: number;
};

/** What a running command reports; `--json` prints each as one line (docs/json.md). */
export type ProgressEvent =
  | { readonly type: 'phaseStarted'; readonly phase: Phase; readonly shadowId: string }
  | {
      readonly type: 'tableProgress';
      readonly table: TableName;
      readonly rows: number;
      readonly bytes: number;
      readonly rowsEstimate: number;
      readonly state: 'copying' | 'copied' | 'restarted';
    }
  | {
      readonly type: 'copyProgress';
      readonly tables: number;
      readonly tablesCopied: number;
      readonly rows: number;
      readonly bytes: number;
      /** Heap bytes on the source that are copied so far, and in all: what the bar shows. */
      readonly heapBytes: number;
      readonly heapBytesTotal: number;
      readonly parts: number;
    }
  | {
      readonly type: 'stepFinished';
      readonly stage: string;
      readonly object: string;
      readonly done: number;
      readonly total: number;
    }
  | ({ readonly type: 'lag' } & Lag)
  /** Once, when the lag passes the tolerance of the shadow, and once when it is well below it again. */
  | { readonly type: 'late'; readonly lagMs: number; readonly maxLagMs: number }
  | { readonly type: 'inTime'; readonly lagMs: number; readonly maxLagMs: number }
  | {
      readonly type: 'verifyProgress';
      readonly table: TableName;
      readonly tablesVerified: number;
      readonly tables: number;
      readonly rows: number;
    }
  | {
      readonly type: 'verified';
      readonly scope: 'full' | 'incremental';
      /** The fence's position; undefined when no follower gave one. */
      readonly lsn: string | undefined;
      readonly tables: number;
      readonly rows: number;
      readonly chunksRead: number;
      readonly chunks: number;
      readonly largeObjects: number;
      readonly differences: number;
      readonly unverified: readonly string[];
      readonly elapsedMs: number;
    }
  | { readonly type: 'notice'; readonly level: 'info' | 'warn'; readonly message: string };

export type Report = (event: ProgressEvent) => void;
