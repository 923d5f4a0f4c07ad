import type { Endpoint } from '#src/core/endpoint.ts';
import type { Selection } from '#src/core/selection.ts';
import { OperatorError } from '#src/lib/errors.ts';

import type { CloneDeps } from './clone-shadow.ts';

export type VerifySettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly selection: Selection;
  readonly jobs: number;
  readonly isFull: boolean;
  readonly isRepair: boolean;
};

/** Join the parts of a verification and run it; the number of rows that differ. */
export async function verifyShadow(_deps: CloneDeps, _settings: VerifySettings): Promise<number> {
  throw new OperatorError('CONFIG_INVALID', 'verify is not part of this version yet');
}
