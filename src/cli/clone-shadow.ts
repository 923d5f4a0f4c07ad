import { homedir } from 'node:os';
import { join } from 'node:path';

import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { OwnersPolicy } from '#src/core/schema-owners.ts';
import type { Selection } from '#src/core/selection.ts';
import type { CheckResult } from '#src/shadow/check/finding.ts';
import type { InStep } from '#src/shadow/clone/clone-options.ts';
import { clone } from '#src/shadow/clone/clone.ts';

import type { CommandDeps } from './command-deps.ts';

export type CloneSettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly selection: Selection;
  readonly jobs: number;
  readonly isFollowed: boolean;
  /** Where the shadow's own spool folder is made; undefined means below the home folder. */
  readonly spoolDirectory: string | undefined;
  readonly sourceWalBytesMax: number;
  readonly stoppedSpoolBytesMax: number;
  readonly maxLagMs?: number | undefined;
  readonly owners?: OwnersPolicy | undefined;
  readonly ddlTriggers?: boolean | undefined;
  readonly untilLsn: Lsn | undefined;
  readonly onChecked?: (result: CheckResult) => void;
  readonly onInStep?: (shadow: InStep) => Promise<void>;
};

/** Join the parts of a clone and run it; the command and the demo both do it here. */
export async function cloneShadow(deps: CommandDeps, settings: CloneSettings): Promise<void> {
  const { spoolDirectory, onChecked, onInStep, ...options } = settings;
  await clone(deps, {
    ...options,
    spoolParent: spoolDirectory ?? join(homedir(), '.understudy', 'spool'),
    onChecked: onChecked ?? (() => undefined),
    onInStep: onInStep ?? (async () => undefined),
  });
}
