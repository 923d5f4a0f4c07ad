import { randomBytes } from 'node:crypto';
import { join } from 'node:path';

import { describeEndpoint } from '#src/core/endpoint.ts';
import type { Selection } from '#src/core/selection.ts';
import type { Table } from '#src/core/table.ts';
import { readServer } from '#src/db/postgres/catalog/server.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { openReplicationConnection } from '#src/db/postgres/replication/create-slot.ts';
import { identifySystem } from '#src/db/postgres/replication/slot.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { mayUseOrigin } from '#src/shadow/lease.ts';
import {
  chooseStreamFormat,
  insertRelations,
  insertShadow,
  installLedger,
  readShadows,
  type ShadowRecord,
  updateShadow,
} from '#src/shadow/ledger.ts';

import type { CloneOptions } from './clone-options.ts';

type SourceIdentity = {
  readonly systemId: string;
  readonly timeline: number;
  readonly database: string;
};

/** Which database this is, whatever address leads to it (trap 15). */
export async function identifySource(source: Session): Promise<SourceIdentity> {
  const server = await readServer(source);
  const database = server.database.name;
  if (server.systemId !== undefined && server.timeline !== undefined) {
    return { systemId: server.systemId, timeline: server.timeline, database };
  }
  // A role that may not call pg_control_system() may still ask as a walsender.
  await using connection = await openReplicationConnection({
    endpoint: source.endpoint,
    applicationName: 'understudy identify',
  });
  return { ...(await identifySystem(connection)), database };
}

/**
 * A server that took the place of a shadow's source: what it has is no continuation of anything. After a
 * pg_upgrade it even is the same data, but slots and positions are not.
 *
 * Throws SOURCE_CHANGED.
 */
export async function refuseReplacedSource(
  sessions: { readonly source: Session; readonly target: Session },
  options: Pick<CloneOptions, 'source'>,
): Promise<void> {
  const { systemId } = await identifySource(sessions.source);
  const address = describeEndpoint(options.source);
  const replaced = (await readShadows(sessions.target)).find(
    (shadow) => shadow.sourceAddress === address && shadow.sourceSystemId !== systemId,
  );
  if (replaced === undefined) return;
  throw new OperatorError(
    'SOURCE_CHANGED',
    `${address} is system ${systemId} now; shadow ${replaced.shadowId} was made from system ${replaced.sourceSystemId} at that address`,
  );
}

/** The shadow of exactly this dataset that the target holds, or undefined. */
export function findShadow(
  shadows: readonly ShadowRecord[],
  identity: Pick<SourceIdentity, 'systemId' | 'database'>,
  selection: Selection,
): ShadowRecord | undefined {
  return shadows.find(
    (shadow) =>
      shadow.sourceSystemId === identity.systemId &&
      shadow.sourceDatabase === identity.database &&
      JSON.stringify(shadow.selection) === JSON.stringify(selection),
  );
}

/** Whether two selections name the same tables; their filters may differ. */
export function selectsSameTables(one: Selection, other: Selection): boolean {
  return patternsOf(one) === patternsOf(other);
}

function patternsOf({ schemas, tables, exclude }: Selection): string {
  return JSON.stringify([schemas, tables, exclude]);
}

/**
 * The shadow's row in the ledger: that of an earlier run, or a new one. It names slot, publication and
 * origin before they are made, so that `drop` finds them whenever this process dies.
 *
 * Throws CONFIG_INVALID when an earlier run was asked for another kind of shadow, SOURCE_CHANGED when
 * the source is an older timeline than the shadow's, or a newer one that it cannot change to.
 */
export async function registerShadow(
  sessions: { readonly source: Session; readonly target: Session },
  tables: readonly Table[],
  options: CloneOptions,
): Promise<ShadowRecord> {
  const { source, target } = sessions;
  const identity = await identifySource(source);
  await installLedger(target);
  const found = findShadow(await readShadows(target), identity, options.selection);
  if (found !== undefined) return resumed(target, found, identity, options);

  const shadowId = randomBytes(4).toString('hex');
  const name = `understudy_${shadowId}`;
  const { isFollowed } = options;
  const shadow: ShadowRecord = {
    shadowId,
    sourceSystemId: identity.systemId,
    sourceTimeline: identity.timeline,
    sourceDatabase: identity.database,
    sourceAddress: describeEndpoint(options.source),
    slotName: isFollowed ? name : undefined,
    publicationName: isFollowed ? name : undefined,
    publicationOid: undefined,
    originName: isFollowed && (await mayUseOrigin(target)) ? name : undefined,
    selection: options.selection,
    isFollowed,
    streamFormat: chooseStreamFormat(tables),
    consistentLsn: undefined,
    spoolDirectory: isFollowed ? join(options.spoolParent, shadowId) : undefined,
    sourceWalBytesMax: options.sourceWalBytesMax,
    stoppedSpoolBytesMax: options.stoppedSpoolBytesMax,
    maxLagMs: options.maxLagMs ?? 0,
    phase: 'preparing',
    stopCode: undefined,
    stopMessage: undefined,
    hasDdlTriggers: false,
  };
  await target.transaction(async () => {
    await insertShadow(target, shadow);
    await insertRelations(target, shadowId, tables);
  });
  return shadow;
}

async function resumed(
  target: Session,
  found: ShadowRecord,
  identity: SourceIdentity,
  options: CloneOptions,
): Promise<ShadowRecord> {
  if (found.isFollowed !== options.isFollowed) {
    const was = found.isFollowed ? 'with' : 'without';
    throw new OperatorError(
      'CONFIG_INVALID',
      `shadow ${found.shadowId} of this dataset was made ${was} --follow; run it so, or drop it first`,
    );
  }
  const { sourceWalBytesMax, stoppedSpoolBytesMax, maxLagMs = found.maxLagMs } = options;
  const update = {
    sourceTimeline: resumedTimeline(found, identity.timeline),
    sourceAddress: describeEndpoint(options.source),
    sourceWalBytesMax,
    stoppedSpoolBytesMax,
    maxLagMs,
  };
  await updateShadow(target, found.shadowId, update);
  return { ...found, ...update };
}

/**
 * A shadow that has nothing yet may begin on any timeline. One that follows is left on its own here: who
 * opens its spool knows what it has, and whether the source's new timeline has that, too.
 */
function resumedTimeline(found: ShadowRecord, timeline: number): number {
  const { sourceTimeline, isFollowed, consistentLsn, shadowId } = found;
  if (sourceTimeline === timeline) return timeline;
  if (isFollowed && consistentLsn === undefined) return timeline;
  if (isFollowed && sourceTimeline < timeline) return sourceTimeline;
  throw new OperatorError(
    'SOURCE_CHANGED',
    `the source is on timeline ${timeline}, shadow ${shadowId} is of ${sourceTimeline}`,
  );
}
