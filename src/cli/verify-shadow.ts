import type { Endpoint } from '#src/core/endpoint.ts';
import type { Selection } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog.ts';
import { readServer } from '#src/db/postgres/server.ts';
import { openSession, type Session } from '#src/db/postgres/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { isLeaseHeld } from '#src/shadow/lease.ts';
import { readShadows, type ShadowRecord } from '#src/shadow/ledger.ts';
import type { MomentChoice } from '#src/shadow/verify/moment.ts';
import { type Verdict, verifyShadow } from '#src/shadow/verify/verify.ts';

import type { CommandDeps } from './command-deps.ts';

export type VerifySettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  /** Empty for all that the shadow holds. */
  readonly selection: Selection;
  readonly jobs: number;
  readonly isFull: boolean;
};

/** For the whole fence; a follower that is further behind than this cannot be verified yet. */
const FENCE_MS = 120_000;

/**
 * Find the shadow, its tables and the moment at which it can be compared exactly, and compare.
 * Throws what the verification throws, and FENCE_TIMEOUT when nobody follows a shadow that should be.
 */
export async function verifyDatabases(
  deps: CommandDeps,
  settings: VerifySettings,
): Promise<Verdict> {
  const applicationName = 'understudy verify';
  await using source = await openSession(settings.source, { applicationName });
  await using target = await openSession(settings.target, { applicationName });
  const shadow = await findShadow({ source, target, selection: settings.selection });
  const isNamed = Object.values(settings.selection).some((patterns) => patterns.length > 0);
  const selection = isNamed ? settings.selection : (shadow?.selection ?? settings.selection);
  const tables = await readTables(source, selection);
  const moment = await chooseMoment(target, shadow);
  return await verifyShadow({
    ...deps,
    source: settings.source,
    target: settings.target,
    tables,
    sequences: [],
    shadowId: shadow?.shadowId,
    moment,
    isFull: settings.isFull,
    jobs: settings.jobs,
  });
}

/** The shadow of this source on this target; of several, that of this selection. */
async function findShadow(options: {
  readonly source: Session;
  readonly target: Session;
  readonly selection: Selection;
}): Promise<ShadowRecord | undefined> {
  const server = await readServer(options.source);
  const shadows = (await readShadows(options.target)).filter(
    ({ sourceSystemId, sourceDatabase }) =>
      sourceDatabase === server.database.name &&
      (server.systemId === undefined || server.systemId === sourceSystemId),
  );
  const wanted = JSON.stringify(options.selection);
  const same = shadows.find(({ selection }) => JSON.stringify(selection) === wanted);
  if (same !== undefined || shadows.length <= 1) return same ?? shadows[0];
  throw new OperatorError(
    'CONFIG_INVALID',
    `the target holds ${shadows.length} shadows of this source: name the selection of one of them`,
  );
}

/**
 * Two sides that live have a position in common only where a follower keeps a fence. A copy that is not
 * followed is compared as both sides are now, and the verdict says so (trap 27).
 */
async function chooseMoment(
  target: Session,
  shadow: ShadowRecord | undefined,
): Promise<MomentChoice> {
  if (shadow === undefined || !shadow.isFollowed) return { kind: 'now' };
  if (await isLeaseHeld(target, shadow.shadowId)) {
    return { kind: 'fence', shadowId: shadow.shadowId, timeoutMs: FENCE_MS };
  }
  throw new OperatorError(
    'FENCE_TIMEOUT',
    `no process follows shadow ${shadow.shadowId}, so the two sides have no position in common`,
  );
}
