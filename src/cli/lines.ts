import type { Difference } from '#src/core/difference.ts';
import type { TableName } from '#src/core/table.ts';
import type { Finding } from '#src/shadow/check/finding.ts';
import type { RecordedVersion } from '#src/shadow/ddl/version-ledger.ts';
import type { Dropped } from '#src/shadow/drop.ts';
import type { ShadowStatus } from '#src/shadow/status.ts';

/** Undefined has no place in JSON: what is not there is null, so that the field can be relied on. */
type Nullable<T> = {
  readonly [K in keyof T]: undefined extends T[K] ? Exclude<T[K], undefined> | null : T[K];
};

/** A result of a command, as --json prints it; docs/json.md describes each, and a test compares. */
export type ResultLine =
  | {
      readonly type: 'finding';
      readonly id: string;
      readonly severity: Finding['severity'];
      readonly object: string;
      readonly cause: string;
      readonly fix: Finding['fix'] | null;
    }
  | {
      readonly type: 'checked';
      readonly tables: number;
      readonly refusals: number;
      readonly warnings: number;
    }
  | {
      readonly type: 'difference';
      readonly kind: Difference['kind'];
      readonly table: Difference['table'];
      /** Null for what is not a row. */
      readonly key: Readonly<Record<string, string | null>> | null;
      readonly columns: readonly string[];
      /** In words, for what is not a row. */
      readonly cause: string | null;
    }
  | {
      readonly type: 'repaired';
      /** Deleted, inserted or replaced on the target. */
      readonly rows: number;
      /** Left after the repair. */
      readonly differences: number;
    }
  | { readonly type: 'returned'; readonly by: 'resume' | 'reseed'; readonly table: TableName }
  | ({ readonly type: 'shadow' } & Nullable<ShadowStatus>)
  | ({ readonly type: 'schemaVersion'; readonly lsn: string } & Omit<RecordedVersion, 'lsn'>)
  | { readonly type: 'schemaHistory'; readonly versions: number }
  | { readonly type: 'listed'; readonly shadows: number }
  | ({ readonly type: 'dropped' } & Dropped)
  | { readonly type: 'demoStarted' }
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
      readonly type: 'demoFinished';
      readonly isClean: boolean;
      readonly verifications: number;
      readonly differences: number;
      readonly transactions: number;
      readonly failed: number;
      readonly elapsedMs: number;
    };
