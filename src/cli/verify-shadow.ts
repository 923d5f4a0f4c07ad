import type { Endpoint } from '#src/core/endpoint.ts';
import type { Selection } from '#src/core/selection.ts';
import { quoteTable } from '#src/core/table.ts';
import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { identifySource, selectsSameTables } from '#src/shadow/clone/register.ts';
import { describeReason } from '#src/shadow/definition-only.ts';
import { includesLargeObjects } from '#src/shadow/large-objects/read-objects.ts';
import { isLeaseHeld } from '#src/shadow/lease.ts';
import { readShadows, type ShadowRecord } from '#src/shadow/ledger.ts';
import { readSequenceNames } from '#src/shadow/schema/sequences.ts';
import type { MomentChoice } from '#src/shadow/verify/moment.ts';
import { type Repair, repairShadow } from '#src/shadow/verify/repair.ts';
import { describeUnread } from '#src/shadow/verify/sequences.ts';
import { type Verdict, verifyShadow, type VerifyOptions } from '#src/shadow/verify/verify.ts';

import { cloneShadow } from './clone-shadow.ts';
import type { CommandDeps } from './command-deps.ts';

export type VerifySettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  /** Empty for all that the shadow holds. */
  readonly selection: Selection;
  readonly jobs: number;
  readonly isFull: boolean;
  /** Of the source, from which the target was just copied and which is still held. */
  readonly sourceSnapshot?: string | undefined;
};

/** For the whole fence; a follower that is further behind than this cannot be verified yet. */
const FENCE_MS = 120_000;

/**
 * Find the shadow, its tables and the moment at which it can be compared exactly, and compare.
 * Throws what the verification throws, and FOLLOWER_MISSING when nobody follows a shadow that should be.
 */
export async function verifyDatabases(
  deps: CommandDeps,
  settings: VerifySettings,
): Promise<Verdict> {
  return verifyShadow(await chooseComparison(deps, settings));
}

/** As `verifyDatabases`, mending what differs. Throws what the repair throws, too. */
export async function repairDatabases(
  deps: CommandDeps,
  settings: VerifySettings,
): Promise<Repair> {
  return repairShadow(await chooseComparison(deps, settings));
}

/**
 * Do `work` while the shadow is followed: by the process that follows it already, else by this one for
 * as long as it takes. Databases without a followed shadow are worked on as they are.
 *
 * Throws FOLLOWER_MISSING for a shadow whose clone is not complete, and what following throws.
 */
export async function whileFollowed<T>(
  deps: CommandDeps,
  settings: VerifySettings,
  work: (deps: CommandDeps) => Promise<T>,
): Promise<T> {
  const shadow = await findIdleShadow(settings);
  if (shadow === undefined) return work(deps);
  const done = new AbortController();
  const signal = AbortSignal.any([deps.signal, done.signal]);
  let outcome: { readonly value: T } | undefined;
  try {
    await cloneShadow(
      { ...deps, signal },
      {
        ...settings,
        selection: shadow.selection,
        isFollowed: true,
        spoolDirectory: undefined,
        sourceWalBytesMax: shadow.sourceWalBytesMax,
        stoppedSpoolBytesMax: shadow.stoppedSpoolBytesMax,
        untilLsn: undefined,
        onInStep: async () => {
          outcome = { value: await work({ ...deps, signal }) };
          done.abort();
        },
      },
    );
  } catch (error) {
    // Somebody else was first: then that one keeps the fence.
    const isFollowed = error instanceof OperatorError && error.code === 'LEASE_HELD';
    if (outcome === undefined && isFollowed) return work(deps);
    if (outcome === undefined) throw error;
  }
  if (outcome !== undefined) return outcome.value;
  throw followerMissing(shadow, 'it was told to end');
}

/** The shadow that is to be compared, if it should be followed and nobody does. */
async function findIdleShadow(settings: VerifySettings): Promise<ShadowRecord | undefined> {
  const applicationName = 'understudy verify';
  await using source = await openSession(settings.source, { applicationName });
  await using target = await openSession(settings.target, { applicationName });
  const shadow = await chooseShadow({ source, target }, settings.selection);
  if (shadow === undefined || !shadow.isFollowed) return undefined;
  if (await isLeaseHeld(target, shadow.shadowId)) return undefined;
  if (shadow.phase === 'catching up' || shadow.phase === 'following') return shadow;
  throw followerMissing(shadow, `it is in phase ${shadow.phase}`);
}

function followerMissing(shadow: ShadowRecord, why: string): OperatorError {
  return new OperatorError(
    'FOLLOWER_MISSING',
    `no process follows shadow ${shadow.shadowId}, and ${why}`,
  );
}

async function chooseComparison(
  deps: CommandDeps,
  settings: VerifySettings,
): Promise<VerifyOptions> {
  const applicationName = 'understudy verify';
  await using source = await openSession(settings.source, { applicationName });
  await using target = await openSession(settings.target, { applicationName });
  const shadow = await chooseShadow({ source, target }, settings.selection);
  if (shadow?.isFollowed === true) await requireTimeline(source, shadow);
  const isNamed = Object.values(settings.selection).some((patterns) => patterns.length > 0);
  const named = isNamed ? settings.selection : (shadow?.selection ?? settings.selection);
  // Whatever part of it is asked for, the shadow holds what its filters left.
  const { where, excludeColumns } = shadow?.selection ?? named;
  const selection = { ...named, where, excludeColumns };
  const { tables, partitioned, unsupported } = await readRelations(source, selection);
  const owners = new Set([...tables, ...partitioned].map(quoteTable));
  const moment = await chooseMoment(target, shadow, settings.sourceSnapshot);
  // Sequences know no snapshots: beside one they are merely further on (trap 27).
  const sequences =
    moment.kind === 'snapshot'
      ? { names: [], unread: [] }
      : await readSequenceNames(source, owners);
  return {
    ...deps,
    source: settings.source,
    target: settings.target,
    tables,
    sequences: sequences.names,
    isWithLargeObjects: includesLargeObjects(selection),
    leftOut: [
      ...unsupported.map(
        ({ schema, name, reason }) => `${schema}.${name} (${describeReason(reason)})`,
      ),
      ...describeUnread({ values: [], unread: sequences.unread }),
    ],
    shadowId: shadow?.shadowId,
    moment,
    isFull: settings.isFull,
    jobs: settings.jobs,
  };
}

/** What another primary has must not be compared with, still less written over, what is followed. */
async function requireTimeline(source: Session, shadow: ShadowRecord): Promise<void> {
  const { timeline } = await identifySource(source);
  if (timeline === shadow.sourceTimeline) return;
  throw new OperatorError(
    'SOURCE_CHANGED',
    `the source is on timeline ${timeline}, shadow ${shadow.shadowId} follows ${shadow.sourceTimeline}`,
  );
}

/** The shadow of this source on this target: that of this selection, or the only one. */
async function chooseShadow(
  sessions: { readonly source: Session; readonly target: Session },
  selection: Selection,
): Promise<ShadowRecord | undefined> {
  const identity = await identifySource(sessions.source);
  const shadows = await readShadows(sessions.target);
  const ours = shadows.filter(
    ({ sourceSystemId, sourceDatabase }) =>
      sourceSystemId === identity.systemId && sourceDatabase === identity.database,
  );
  const same = ours.find((shadow) => selectsSameTables(shadow.selection, selection));
  if (same !== undefined) return same;
  const [only, ...others] = ours;
  if (others.length === 0) return only;
  throw new OperatorError(
    'CONFIG_INVALID',
    `the target holds ${others.length + 1} shadows of this source: name the selection of one of them`,
  );
}

/**
 * Two sides that live have a position in common only where a follower keeps a fence. A copy that is not
 * followed is compared as both sides are now, and the verdict says so (trap 27).
 */
async function chooseMoment(
  target: Session,
  shadow: ShadowRecord | undefined,
  sourceSnapshot: string | undefined,
): Promise<MomentChoice> {
  if (sourceSnapshot !== undefined) return { kind: 'snapshot', sourceSnapshot, lsn: undefined };
  if (shadow === undefined || !shadow.isFollowed) return { kind: 'now' };
  if (await isLeaseHeld(target, shadow.shadowId)) {
    return { kind: 'fence', shadowId: shadow.shadowId, timeoutMs: FENCE_MS };
  }
  throw followerMissing(shadow, 'the two sides have no position in common');
}
