import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import type { OwnersPolicy } from '#src/core/schema-owners.ts';
import type { Selection } from '#src/core/selection.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import type { CheckResult } from '#src/shadow/check/finding.ts';

export type CloneDeps = {
  readonly report: Report;
  readonly log: Logger;
  readonly clock: Clock;
  readonly failpoints: Failpoints;
  readonly signal: AbortSignal;
};

export type CloneOptions = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly selection: Selection;
  /** Connections to each side that copy, or build indexes, at the same time. */
  readonly jobs: number;
  readonly isFollowed: boolean;
  /** Parent of the shadow's own spool folder, unless the ledger has one on record already. */
  readonly spoolParent: string;
  /** The folder that the user asked for; the shadow's own folder is made below it. */
  readonly sourceWalBytesMax: number;
  /** Install our event triggers on the source; what an earlier run installed stays in any case. */
  readonly ddlTriggers?: boolean | undefined;
  /** What the spool may keep for stopped tables alone. */
  readonly stoppedSpoolBytesMax: number;
  /** Lag beyond which the shadow is late, 0 for none; undefined leaves what an earlier run recorded. */
  readonly maxLagMs?: number | undefined;
  /** What becomes of owners and grants; undefined: keep. */
  readonly owners?: OwnersPolicy | undefined;
  /** End when everything that the source committed before it is applied. */
  readonly untilLsn: Lsn | undefined;
  /** What the pre-flight found, before anything is changed. */
  readonly onChecked: (result: CheckResult) => void;
  /** The shadow is in step for the first time in this run, or complete; following goes on meanwhile. */
  readonly onInStep: (shadow: InStep) => Promise<void>;
};

export type InStep = {
  readonly shadowId: string;
  /** The snapshot that was copied, while it is still held; only without following. */
  readonly sourceSnapshot: string | undefined;
};
