import { formatLsn, type Lsn, lsn } from '#src/core/lsn.ts';
import type { Phase } from '#src/core/progress.ts';
import type { Stage } from '#src/core/schema-script.ts';
import type { Table } from '#src/core/table.ts';
import type { SelectedRelations } from '#src/db/postgres/catalog/catalog.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { readLsn } from '#src/db/postgres/replication/slot.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { orAborted } from '#src/lib/or-aborted.ts';
import { supervise, type Task } from '#src/lib/supervise.ts';
import { copyTables } from '#src/shadow/copy/copy.ts';
import type { HeldSnapshot, TakenSnapshot } from '#src/shadow/copy/generations.ts';
import { endAllKeepers } from '#src/shadow/copy/hold-snapshot.ts';
import { type Follower, openFollower } from '#src/shadow/follow/follow.ts';
import { sendHeartbeat } from '#src/shadow/follow/watch/heartbeat.ts';
import {
  copyLargeObjects,
  prepareLargeObjects,
} from '#src/shadow/large-objects/copy-large-objects.ts';
import { includesLargeObjects } from '#src/shadow/large-objects/read-objects.ts';
import {
  readRelationRecords,
  type ShadowRecord,
  type ShadowUpdate,
  updateShadow,
} from '#src/shadow/ledger.ts';
import { type Publication, requirePublication } from '#src/shadow/publication.ts';
import { runSteps } from '#src/shadow/schema/run-steps.ts';
import { planChunking } from '#src/shadow/verify/chunking.ts';

import { bringSequences } from './bring-sequences.ts';
import type { CloneDeps, CloneOptions } from './clone-options.ts';
import { isCopied, readDataset } from './dataset.ts';
import { prepareSource } from './prepare-source.ts';
import { restoreSchema } from './restore-schema.ts';
import { takePlainSnapshot, takeSlotSnapshot } from './take-snapshot.ts';
import { type Both, openBoth, watchSchema, watchUnstreamed } from './watches.ts';

/**
 * One attempt at a shadow, by the runner that holds its lease. Whatever the ledger says is done is
 * passed over, so an attempt after a crash goes on where the last one ended.
 */
export type Build = {
  readonly shadow: ShadowRecord;
  readonly tables: SelectedRelations;
  /** Holds the lease; for short statements of one part at a time. */
  readonly control: Session;
  readonly epoch: bigint;
  readonly state: CloneState;
};

/** What one attempt of a run leaves to the next. */
export type CloneState = {
  isInStep: boolean;
  wasInStep: boolean;
  /** Of the newest lease that this process held. */
  epoch: bigint | undefined;
  /** Quoted names of those that could not be brought along, which was told. */
  readonly toldSequences: Set<string>;
};

/** What brings rows into tables and makes changes applicable: needs no row to be right. */
const KEY_STAGES: readonly Stage[] = ['index', 'attach'];
/** What looks at rows, which must be as of one position then. */
const ROW_STAGES: readonly Stage[] = [
  'foreign-key',
  'validate',
  'trigger',
  'refresh',
  'analyze',
  'owner',
];

const NUDGE_MS = 1_000;
const IN_STEP_POLL_MS = 50;

export async function buildShadow(
  deps: CloneDeps,
  options: CloneOptions,
  build: Build,
): Promise<void> {
  const run = new Run(deps, options, build);
  await (build.shadow.isFollowed ? run.followed() : run.plain());
}

class Run {
  readonly #deps: CloneDeps;
  readonly #options: CloneOptions;
  readonly #build: Build;
  #shadow: ShadowRecord;

  constructor(deps: CloneDeps, options: CloneOptions, build: Build) {
    this.#deps = deps;
    this.#options = options;
    this.#build = build;
    this.#shadow = build.shadow;
  }

  /** Copy what one snapshot shows, and end. */
  async plain(): Promise<void> {
    const { source, onInStep } = this.#options;
    const { shadowId } = this.#shadow;
    const { signal } = this.#deps;
    if (this.#shadow.phase === 'complete') {
      await this.#enter('complete');
      await onInStep({ shadowId, sourceSnapshot: undefined });
      return;
    }
    await this.#enter('preparing');
    await using held = new AsyncDisposableStack();
    let sourceSnapshot: string | undefined;
    const takeSnapshot = async (): Promise<TakenSnapshot> => {
      const taken = await takePlainSnapshot(source, shadowId);
      held.defer(taken.release);
      sourceSnapshot = taken.snapshotName;
      // Kept until the end, for a verification at this very snapshot.
      return { ...taken, release: async () => undefined };
    };
    await this.#restoreSchema(undefined, signal);
    await this.#prepareLargeObjects();
    await this.#copy([], takeSnapshot, signal);
    await this.#copyLargeObjects(sourceSnapshot === undefined ? [] : [sourceSnapshot], signal);
    await this.#steps([...KEY_STAGES, ...ROW_STAGES], signal);
    await this.#syncSequences('at the end');
    await onInStep({ shadowId, sourceSnapshot });
    await this.#enter('complete');
  }

  /** Copy while the changes are spooled; then apply them, for ever. */
  async followed(): Promise<void> {
    if (this.#shadow.consistentLsn === undefined) await this.#enter('preparing');
    await using held = new AsyncDisposableStack();
    const snapshot = await prepareSource({
      deps: this.#deps,
      options: this.#options,
      control: this.#build.control,
      shadow: this.#shadow,
      tables: await this.#dataset(),
      partitioned: this.#build.tables.partitioned,
      record: async (update) => this.#record(update),
    });
    if (snapshot !== undefined) held.defer(async () => snapshot.leave());
    const { control, epoch } = this.#build;
    const shadow = this.#shadow;
    assert(shadow.spoolDirectory !== undefined, 'a followed shadow has a spool on record');
    await using follower = await openFollower({
      ...this.#deps,
      ...this.#options,
      shadow,
      epoch,
      spoolDirectory: shadow.spoolDirectory,
      // A verification compares sequences, too.
      onFence: async () => this.#syncSequences(),
    });
    await supervise(
      [
        follower.spooling,
        async (signal) => lostSession(control, signal),
        async (signal) => {
          await this.#restoreSchema(snapshot?.exported[0], signal);
          await this.#copyFollowed(snapshot, signal);
          await this.#steps(KEY_STAGES, signal);
          await this.#enter('catching up');
          await supervise(
            [follower.applying, async (end) => this.#completeAndFollow(follower, end)],
            signal,
          );
        },
      ],
      this.#deps.signal,
    );
  }

  async #restoreSchema(snapshot: string | undefined, signal: AbortSignal): Promise<void> {
    const { control, tables } = this.#build;
    const { shadowId } = this.#shadow;
    const dataset = await this.#dataset();
    const endpoints = this.#options;
    await restoreSchema({
      ...this.#deps,
      ...endpoints,
      owners: endpoints.owners ?? 'keep',
      signal,
      control,
      shadowId,
      tables,
      dataset,
      snapshot,
    });
  }

  async #copyFollowed(snapshot: HeldSnapshot | undefined, signal: AbortSignal): Promise<void> {
    const { source } = this.#options;
    const { shadowId } = this.#shadow;
    // First, since the copy of the tables gives the snapshots up when it is done.
    await this.#copyLargeObjects(snapshot?.exported ?? [], signal);
    await this.#copy(
      snapshot === undefined ? [] : [snapshot],
      async () => takeSlotSnapshot({ ...this.#deps, source, shadowId, signal }),
      signal,
    );
  }

  async #copy(
    held: readonly HeldSnapshot[],
    takeSnapshot: () => Promise<TakenSnapshot>,
    signal: AbortSignal,
  ): Promise<void> {
    const { source, target, jobs } = this.#options;
    const { control } = this.#build;
    const { shadowId } = this.#shadow;
    const tables = await this.#dataset();
    await using session = await openSession(source, { applicationName: `understudy ${shadowId}` });
    if (await isCopied(control, shadowId)) {
      // A run that died right after its last part may have left them; production cannot vacuum past them.
      const records = await readRelationRecords(control, shadowId);
      // Those of a table that is copied again are still needed.
      if (!records.some(({ isInLane }) => isInLane)) await endAllKeepers(session, shadowId);
    } else {
      await this.#enter('copying');
      await copyTables({
        ...this.#deps,
        signal,
        source,
        target,
        shadowId,
        tables,
        isFollowed: this.#shadow.isFollowed,
        jobs,
        held,
        takeSnapshot,
      });
      await this.#enter('indexing');
    }
    // Also for an earlier run that died before it came to this.
    this.#deps.failpoints.hit('chunking.before');
    await planChunking({ source: session, target: control, shadowId, tables });
    this.#deps.failpoints.hit('chunking.after');
  }

  async #prepareLargeObjects(): Promise<void> {
    const { shadowId, selection } = this.#shadow;
    if (!includesLargeObjects(selection)) return;
    await using both = await this.#openBoth('large objects');
    await prepareLargeObjects(both.source, both.target, shadowId);
  }

  async #copyLargeObjects(exported: readonly string[], signal: AbortSignal): Promise<void> {
    const { shadowId, selection } = this.#shadow;
    if (!includesLargeObjects(selection)) return;
    const { source, target } = this.#options;
    await copyLargeObjects({ ...this.#deps, source, target, shadowId, exported, signal });
  }

  async #steps(stages: readonly Stage[], signal: AbortSignal): Promise<void> {
    const { target, jobs } = this.#options;
    const { shadowId } = this.#shadow;
    await runSteps({ ...this.#deps, signal, target, shadowId, stages, jobs });
  }

  /**
   * Bring the target to a position at which every table has its copy, do what looks at rows while it
   * stands there, then let changes flow.
   */
  async #completeAndFollow(follower: Follower, signal: AbortSignal): Promise<void> {
    const { source, untilLsn } = this.#options;
    const { shadowId } = this.#shadow;
    const { clock } = this.#deps;
    await using session = await openSession(source, {
      applicationName: `understudy ${shadowId}`,
      answerMsMax: ANSWER_MS_MAX,
    });
    const records = await readRelationRecords(this.#build.control, shadowId);
    const starts = records
      .filter(({ state }) => state === 'copied')
      .map((record) => record.startLsn ?? lsn(0n));
    const complete = starts.reduce(
      (a, b) => (a > b ? a : b),
      this.#shadow.consistentLsn ?? lsn(0n),
    );
    const stands = follower.gate.close({ kind: 'until', lsn: complete });
    await sendHeartbeat(session, shadowId, clock.now());
    await orAborted(stands, signal);
    await this.#steps(ROW_STAGES, signal);
    await this.#syncSequences();
    if (untilLsn !== undefined) {
      await this.#applyUntil(follower, session, untilLsn, signal);
      return;
    }
    follower.gate.open();
    await supervise(
      [
        follower.serving,
        follower.returning,
        async (end) => this.#whenInStep(follower, session, end),
        async (end) => this.#watch(end),
        async (end) => this.#watchSchema(follower, end),
      ],
      signal,
    );
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { shadowId } = this.#shadow;
    await using both = await this.#openBoth('watch');
    const sync = async (): Promise<void> => bringSequences(this.#deps, both, this.#build, 'now');
    await watchUnstreamed({ ...this.#deps, both, shadowId, syncSequences: sync }, signal);
  }

  async #watchSchema(follower: Follower, signal: AbortSignal): Promise<void> {
    const { selection, source: sourceEndpoint } = this.#options;
    await using both = await this.#openBoth('schema');
    const publication = this.#publication();
    const known = { both, shadow: this.#shadow, sourceEndpoint, selection, publication, follower };
    await watchSchema({ ...this.#deps, ...known }, signal);
  }

  async #applyUntil(
    follower: Follower,
    source: Session,
    untilLsn: Lsn,
    signal: AbortSignal,
  ): Promise<void> {
    const reached = follower.gate.close({ kind: 'until', lsn: untilLsn });
    const nudging: Task = async (end) => {
      // The position may lie ahead of what the source has written so far.
      for (;;) {
        await sendHeartbeat(source, this.#shadow.shadowId, this.#deps.clock.now());
        await this.#deps.clock.sleep(NUDGE_MS, end);
      }
    };
    await supervise([nudging, async (end) => void (await orAborted(reached, end))], signal);
    await this.#syncSequences('at the end');
    await this.#requirePublication(source);
    this.#deps.report({
      type: 'notice',
      level: 'info',
      message: `everything that committed before ${formatLsn(untilLsn)} is applied`,
    });
  }

  /** In step for the first time: applied is past what the source's head was when we asked. */
  async #whenInStep(follower: Follower, source: Session, signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const [row] = await source.query('SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn');
    const head = readLsn(row?.['lsn'], 'pg_current_wal_insert_lsn');
    await sendHeartbeat(source, this.#shadow.shadowId, clock.now());
    while (follower.meter.appliedLsn <= head) await clock.sleep(IN_STEP_POLL_MS, signal);
    await this.#syncSequences();
    await this.#requirePublication(source);
    await this.#enter('following');
    const { state } = this.#build;
    state.isInStep = true;
    if (!state.wasInStep) {
      await this.#options.onInStep({ shadowId: this.#shadow.shadowId, sourceSnapshot: undefined });
      // Only now: what a lost connection cut off is done again by the next attempt.
      state.wasInStep = true;
    }
    await orAborted(new Promise<never>(() => undefined), signal);
  }

  async #syncSequences(when: 'now' | 'at the end' = 'now'): Promise<void> {
    await using both = await this.#openBoth('sequences');
    this.#deps.failpoints.hit('sequences.before');
    await bringSequences(this.#deps, both, this.#build, when);
    this.#deps.failpoints.hit('sequences.after');
  }

  async #openBoth(part: string): Promise<Both> {
    return openBoth(this.#options, this.#shadow.shadowId, part);
  }

  async #dataset(): Promise<readonly Table[]> {
    const { control, shadow, tables } = this.#build;
    return readDataset(control, shadow.shadowId, tables.tables);
  }

  /** Before anything is called complete: a gap that the stream did not show must not pass for the whole. */
  async #requirePublication(source: Session): Promise<void> {
    await requirePublication(source, this.#publication());
  }

  #publication(): Publication {
    const { publicationName: name, publicationOid: oid } = this.#shadow;
    assert(
      name !== undefined && oid !== undefined,
      'a followed shadow has a publication on record',
    );
    return { name, oid };
  }

  async #enter(phase: Phase): Promise<void> {
    await this.#record({ phase });
    this.#deps.report({ type: 'phaseStarted', phase, shadowId: this.#shadow.shadowId });
  }

  async #record(update: ShadowUpdate): Promise<void> {
    this.#deps.failpoints.hit('clone.beforeRecord');
    await updateShadow(this.#build.control, this.#shadow.shadowId, update);
    this.#deps.failpoints.hit('clone.afterRecord');
    this.#shadow = { ...this.#shadow, ...update };
  }
}

/** The session that holds the lease is gone, and the lease with it. */
async function lostSession(control: Session, signal: AbortSignal): Promise<void> {
  await orAborted(control.lost, signal);
  throw new OperatorError('CONNECTION_LOST', 'the session that holds the lease was lost');
}
