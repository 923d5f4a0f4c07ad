import type { Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn, lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { dropSlot, readSlot, type SlotState } from '#src/db/postgres/replication/slot.ts';
import { assert } from '#src/lib/assert.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { supervise, type Task } from '#src/lib/supervise.ts';
import { Wake } from '#src/lib/wake.ts';
import { applyChanges } from '#src/shadow/follow/apply/apply-changes.ts';
import { ApplyGate } from '#src/shadow/follow/apply/apply-gate.ts';
import { runLanes } from '#src/shadow/follow/lane/lanes.ts';
import { letGoBefore, SpoolFloor } from '#src/shadow/follow/lane/spool-floor.ts';
import { sendHeartbeat } from '#src/shadow/follow/watch/heartbeat.ts';
import { LagMeter, monitor } from '#src/shadow/follow/watch/monitor.ts';
import { PublicationWatch } from '#src/shadow/follow/watch/publication-watch.ts';
import { readProgress, requireOriginalTarget } from '#src/shadow/lease.ts';
import { readRelationRecords, type ShadowRecord, updateShadow } from '#src/shadow/ledger.ts';
import type { SpoolIdentity } from '#src/stream/spool/identity.ts';
import { openSpool, type Spool } from '#src/stream/spool/spool.ts';

import {
  readSourceTimeline,
  requireDescendant,
  requireReached,
  type SourceTimeline,
} from './failover.ts';
import { Receiver } from './receiver.ts';
import { serveRequests, voidRequests } from './requests.ts';

/**
 * Following a source, in parts that start at different times:
 *
 *     spooling    receiver and monitor, from the moment the slot exists: the copy may take as long as
 *                 it needs without filling the source's disk
 *     applying    the apply loop, once every table has its copy and its key
 *     serving     the fences of other commands, once the target is in order
 *
 * All are tasks for `supervise`; they share what `openFollower` made.
 */
export type FollowDeps = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly shadow: ShadowRecord;
  readonly epoch: bigint;
  readonly spoolDirectory: string;
  /** Connections to each side that copy at the same time. */
  readonly jobs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly report: Report;
  readonly failpoints: Failpoints;
  /** Of the spool, instead of its own choice. */
  readonly segmentBytes?: number;
  /** Called while the target stands at a fence, before anybody is told. */
  readonly onFence: () => Promise<void>;
};

export type Follower = AsyncDisposable & {
  readonly gate: ApplyGate;
  readonly meter: LagMeter;
  /** Woken when the stream names a table that is not on record. */
  readonly lookAtSchema: Wake;
  readonly spooling: Task;
  readonly applying: Task;
  /** What brings stopped tables back, and new ones in; beside `applying`. */
  readonly returning: Task;
  /** Fence requests of other commands; ends well when one asks the follower to end. */
  readonly serving: Task;
};

/** How long a lost source is waited for. */
const SOURCE_GIVE_UP_MS = 60_000;
/** A slot of ours is free once its walsender has noticed. */
const DROP_DEADLINE_MS = 20_000;
/** The disk is the limit of the spool: what does not fit stays in the source's WAL, which has a budget. */
const SPOOL_BYTES_MAX = 2 ** 50;

/**
 * Open the spool and check that nothing is missing between it, the target and the slot (trap 15).
 *
 * Throws SLOT_LOST, SLOT_AHEAD, SPOOL_MISSING, PROGRESS_LOST, PUBLICATION_CHANGED, SOURCE_CHANGED,
 * SOURCE_BEHIND, and what opening the spool throws.
 */
export async function openFollower(deps: FollowDeps): Promise<Follower> {
  const { shadow, clock } = deps;
  const names = requireNames(shadow);
  await using owned = new AsyncDisposableStack();
  const open = async (
    endpoint: Endpoint,
    part: string,
    settings: Readonly<Record<string, string>> = {},
  ): Promise<Session> => {
    const applicationName = `understudy ${shadow.shadowId} ${part}`;
    return owned.use(
      await openSession(endpoint, { applicationName, settings, answerMsMax: ANSWER_MS_MAX }),
    );
  };
  const source = await open(deps.source, 'monitor');
  // Its commits tell what the target has flushed; a standby of the target does not count, nor hold us up.
  const target = await open(deps.target, 'monitor', { synchronous_commit: 'local' });
  const requests = await open(deps.target, 'requests');

  // Before anything is applied: it would pass the fences that an earlier run kept.
  await voidRequests(requests, shadow.shadowId);
  deps.failpoints.hit('request.afterVoid');
  await requireOriginalTarget(target, shadow.shadowId);
  const applied = await readProgress(target, shadow.shadowId);
  const found = await readSourceTimeline(deps.source, shadow);
  const slot = await requireSlot(source, names.slotName, found, shadow.sourceTimeline);
  const confirmed = slot.confirmedFlushLsn ?? names.consistentLsn;
  const identity = spoolIdentity(shadow, names, found.timeline);
  const spool = owned.use(
    await openSpool({
      directory: deps.spoolDirectory,
      identity,
      formerTimelines: found.ancestors.map(({ timeline }) => timeline),
      // An empty new spool is right only while the source still has everything that the target lacks.
      mode: confirmed <= applied ? 'create' : 'resume',
      startLsn: applied,
      bytesMax: SPOOL_BYTES_MAX,
      ...(deps.segmentBytes === undefined ? {} : { segmentBytes: deps.segmentBytes }),
      failpoints: deps.failpoints,
    }),
  );
  const known = later(applied, spool.writer.appendedLsn);
  if (found.timeline !== shadow.sourceTimeline) {
    await moveToTimeline(deps, { target, spool, identity, found, known });
  }
  await requireReached({ source, target }, shadow, known);
  if (confirmed > known) {
    throw new OperatorError(
      'SLOT_AHEAD',
      `slot ${names.slotName} is at ${formatLsn(confirmed)}; target and spool end at ${formatLsn(known)}`,
    );
  }
  await beginAtSpoolEnd(deps, { target, spool, confirmed });

  const gate = new ApplyGate();
  const lookAtSchema = new Wake();
  const meter = new LagMeter(applied);
  const receiver = new Receiver(
    {
      source: deps.source,
      applicationName: `understudy ${shadow.shadowId} receive`,
      slot: names.slotName,
      publication: names.publicationName,
      binary: shadow.streamFormat === 'binary',
      systemId: shadow.sourceSystemId,
      timeline: found.timeline,
      writer: spool.writer,
      clock,
      log: deps.log,
      failpoints: deps.failpoints,
    },
    known,
  );
  const records = await readRelationRecords(target, shadow.shadowId);
  const { publicationName, publicationOid } = names;
  const publication = new PublicationWatch({ name: publicationName, oid: publicationOid }, records);
  // Before a change is received: one that was altered while nobody looked has left some out.
  await publication.check(source);
  const nudge = async (): Promise<void> => sendHeartbeat(source, shadow.shadowId, clock.now());
  const floor = new SpoolFloor();
  const resources = owned.move();
  return {
    gate,
    meter,
    spooling: spoolingTask(deps, {
      names,
      source,
      target,
      publication,
      spool,
      receiver,
      meter,
      floor,
    }),
    lookAtSchema,
    applying: async (signal) =>
      applyChanges(
        { ...deps, spool, gate, meter, onUnknownTable: () => lookAtSchema.wake() },
        signal,
      ),
    returning: async (signal) =>
      runLanes({ ...deps, spool, gate, meter, floor, publication }, signal),
    serving: async (signal) => {
      const { shadowId } = shadow;
      const { onFence } = deps;
      await serveRequests(
        {
          target: requests,
          shadowId,
          gate,
          clock,
          nudge,
          onFence,
          failpoints: deps.failpoints,
        },
        signal,
      );
    },
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}

type Names = ReturnType<typeof requireNames>;

/** What a followed shadow has on record before it can follow. */
function requireNames(shadow: ShadowRecord) {
  const { slotName, publicationName, publicationOid, consistentLsn } = shadow;
  assert(
    slotName !== undefined && publicationName !== undefined && publicationOid !== undefined,
    'a followed shadow has slot and publication on record',
  );
  assert(consistentLsn !== undefined, 'a followed shadow has a consistent point on record');
  return { slotName, publicationName, publicationOid, consistentLsn };
}

function spoolIdentity(shadow: ShadowRecord, names: Names, timeline: number): SpoolIdentity {
  return {
    shadowId: shadow.shadowId,
    systemId: shadow.sourceSystemId,
    timeline,
    slot: names.slotName,
    createdLsn: names.consistentLsn,
  };
}

/** Throws SLOT_LOST. A promoted standby has only the slots that it synchronised (17). */
async function requireSlot(
  source: Session,
  name: string,
  { timeline }: SourceTimeline,
  recordedTimeline: number,
): Promise<SlotState> {
  const slot = await readSlot(source, name);
  if (slot !== undefined && slot.invalidation === undefined) return slot;
  const why = slot === undefined ? 'does not exist any more' : 'was invalidated';
  const when =
    timeline === recordedTimeline ? '' : `, which went over to timeline ${timeline} in a failover`;
  throw new OperatorError('SLOT_LOST', `slot ${name} ${why} on the source${when}`);
}

/**
 * After a failover that lost nothing of what we have: the spool and the ledger name the new timeline from
 * now on. The spool first, since it accepts the one that is on record, too.
 */
async function moveToTimeline(
  deps: FollowDeps,
  parts: {
    readonly target: Session;
    readonly spool: Spool;
    readonly identity: SpoolIdentity;
    readonly found: SourceTimeline;
    readonly known: Lsn;
  },
): Promise<void> {
  const { shadow, report, log } = deps;
  const { target, spool, identity, found, known } = parts;
  const endLsn = await requireDescendant(target, shadow, found, known);
  await spool.moveTo(identity);
  await updateShadow(target, shadow.shadowId, { sourceTimeline: found.timeline });
  const { sourceTimeline: from } = shadow;
  const message = `the source failed over from timeline ${from} to ${found.timeline} at ${formatLsn(endLsn)}; the shadow had everything up to ${formatLsn(known)} and goes on`;
  log.warn({ from, to: found.timeline }, 'the source failed over');
  report({ type: 'notice', level: 'warn', message });
}

/**
 * Make the end of the spool where receiving begins. The target may have more: the applier does not wait for
 * the disk, so a power loss, or an fdatasync that fails, takes from the spool what is applied by then. The
 * main loop passes over it when it comes again; a table that has stopped, or is on its way back, needs it.
 * What was confirmed does not come again, so that such a table can only be copied (I12, trap 15).
 */
async function beginAtSpoolEnd(
  deps: FollowDeps,
  parts: { readonly target: Session; readonly spool: Spool; readonly confirmed: Lsn },
): Promise<void> {
  const { target, spool, confirmed } = parts;
  const { writer, startLsn } = spool;
  const begins = `the spool begins at ${formatLsn(startLsn)} now`;
  await letGoBefore({ ...deps, target }, startLsn, begins);
  // One that was made anew says nothing of its beginning, and confirming less would move the slot backwards.
  writer.advance(startLsn);
  const end = writer.appendedLsn;
  if (confirmed <= end) return;
  deps.log.warn({ end: formatLsn(end), confirmed: formatLsn(confirmed) }, 'the spool lost its end');
  const lost = `the spool lost what came from ${formatLsn(end)} to ${formatLsn(confirmed)}`;
  await letGoBefore({ ...deps, target }, confirmed, lost);
  writer.advance(confirmed);
}

function spoolingTask(
  deps: FollowDeps,
  parts: {
    readonly names: Names;
    readonly source: Session;
    readonly target: Session;
    readonly publication: PublicationWatch;
    readonly spool: Spool;
    readonly receiver: Receiver;
    readonly meter: LagMeter;
    readonly floor: SpoolFloor;
  },
): Task {
  const shadow = { ...deps.shadow, ...parts.names };
  return async (signal) => {
    try {
      await supervise(
        [
          async (end) => parts.receiver.run(SOURCE_GIVE_UP_MS, end),
          async (end) => monitor({ ...deps, ...parts, shadow }, end),
        ],
        signal,
      );
    } catch (error) {
      const isOver = error instanceof OperatorError && error.code === 'WAL_BUDGET_EXCEEDED';
      // Only now, when the receiver has ended, which would take the slot again.
      if (isOver) await dropSlot(parts.source, shadow.slotName, DROP_DEADLINE_MS);
      throw error;
    }
  };
}

function later(a: Lsn, b: Lsn): Lsn {
  return lsn(a > b ? a : b);
}
