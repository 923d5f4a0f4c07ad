import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import type { VerifyOptions } from '#src/shadow/verify/verify.ts';

import type { FollowedPair } from './follower.ts';

/** To compare both sides at a fence of the follower. */
export async function verifyOptions(
  pair: FollowedPair,
  options: Partial<VerifyOptions> = {},
): Promise<VerifyOptions> {
  const { shadowId } = pair.shadow;
  return {
    source: pair.source.endpoint,
    target: pair.target.endpoint,
    tables: await readTables(pair.source.session, EVERYTHING),
    sequences: [],
    leftOut: [],
    shadowId,
    moment: { kind: 'fence', shadowId, timeoutMs: 20_000 },
    isFull: false,
    jobs: 2,
    report: () => undefined,
    failpoints: createFailpoints(undefined),
    signal: new AbortController().signal,
    ...options,
  };
}
