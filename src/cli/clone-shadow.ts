import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { Selection } from '#src/core/selection.ts';
import { OperatorError } from '#src/lib/errors.ts';

import type { CommandDeps } from './command-deps.ts';

export type CloneSettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly selection: Selection;
  readonly jobs: number;
  readonly isFollowed: boolean;
  /** Undefined means a folder of the shadow's own below the home folder. */
  readonly spoolDirectory: string | undefined;
  readonly sourceWalBytesMax: number;
  readonly untilLsn: Lsn | undefined;
};

/** Join the parts of a clone and run it; the command and the demo both do it here. */
export async function cloneShadow(_deps: CommandDeps, _settings: CloneSettings): Promise<void> {
  throw new OperatorError('CONFIG_INVALID', 'clone is not part of this version yet');
}
