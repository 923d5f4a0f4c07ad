import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteTable } from '#src/core/table.ts';
import { ANSWER_MS_MAX, openSession } from '#src/db/postgres/connection/session.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';
import { isTransient } from '#src/shadow/follow/apply/apply-attempts.ts';
import { reseedTables } from '#src/shadow/follow/lane/reseed.ts';
import { leaveReseed } from '#src/shadow/follow/table-states.ts';
import type { PublicationWatch } from '#src/shadow/follow/watch/publication-watch.ts';
import { type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';

import { serveLaneRequests } from './lane-requests.ts';
import { type LaneDeps, runLane } from './lane.ts';
import type { SpoolFloor } from './spool-floor.ts';

/**
 * Brings tables back, or in: whatever the ledger says is on its way, whoever put it there (a request that
 * is served here, `addRelations`, or a run that died). Copies one after another, each of all the tables
 * that wait for one; lanes side by side.
 */
export type LanesDeps = LaneDeps & {
  readonly source: Endpoint;
  readonly jobs: number;
  readonly floor: SpoolFloor;
  readonly publication: PublicationWatch;
};

const POLL_MS = 500;
const RETRY_MS = 5_000;
/** Each has a connection to the target, and reads the spool once more. */
const LANES_MAX = 4;

/** Failures of a copy that are its tables' own; whatever else ends the attempt at following. */
const FAILS_A_COPY: ReadonlySet<ErrorCode> = new Set([
  'TABLE_CHANGED',
  'TABLE_REWRITTEN',
  'SNAPSHOT_LOST',
  'COPY_MISMATCH',
  'SLOT_BLOCKED',
  'NO_FREE_SLOT',
  'PRIVILEGE_MISSING',
  'PREFLIGHT_REFUSED',
  'STATEMENT_FAILED',
]);

export async function runLanes(deps: LanesDeps, signal: AbortSignal): Promise<void> {
  const { shadow, clock } = deps;
  await using target = await openSession(deps.target, {
    applicationName: `understudy ${shadow.shadowId} lanes`,
    answerMsMax: ANSWER_MS_MAX,
  });
  const work = new Work(deps, signal);
  try {
    for (;;) {
      await serveLaneRequests(deps, target);
      const away = await readRelationRecords(target, shadow.shadowId, 'not followed');
      // Before a copy, which may alter how its tables are published.
      await deps.publication.keepUp(away, async () => readRelationRecords(target, shadow.shadowId));
      work.begin(away);
      await work.whileHealthy(clock.sleep(POLL_MS, signal));
    }
  } finally {
    await work.end();
  }
}

/** What is under way. */
class Work {
  readonly #deps: LanesDeps;
  readonly #over = new AbortController();
  readonly #signal: AbortSignal;
  readonly #lanes = new Map<number, Promise<void>>();
  #copy: Promise<void> | undefined;
  readonly #failed = Promise.withResolvers<never>();

  constructor(deps: LanesDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = AbortSignal.any([signal, this.#over.signal]);
    this.#failed.promise.catch(() => undefined);
  }

  /** Start what the ledger says is due. */
  begin(records: readonly RelationRecord[]): void {
    for (const record of records.filter(({ state }) => state === 'catching up')) {
      const { sourceOid } = record;
      if (this.#lanes.has(sourceOid) || this.#lanes.size >= LANES_MAX) continue;
      const lane = this.#guard(runLane(this.#deps, sourceOid, this.#signal));
      this.#lanes.set(sourceOid, lane);
      void lane.then(() => this.#lanes.delete(sourceOid));
    }
    const waiting = records.filter(
      ({ state, isInLane }) => isInLane && (state === 'pending' || state === 'copying'),
    );
    if (waiting.length === 0 || this.#copy !== undefined) return;
    const copying = this.#guard(copy(this.#deps, waiting, this.#signal));
    this.#copy = copying.finally(() => {
      this.#copy = undefined;
    });
  }

  async whileHealthy(waiting: Promise<void>): Promise<void> {
    await Promise.race([waiting, this.#failed.promise]);
  }

  /** When one has failed, the others are not to go on. */
  async end(): Promise<void> {
    this.#over.abort();
    await Promise.all([...this.#lanes.values(), this.#copy]);
  }

  /** Its failure is that of all of this. */
  async #guard(work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) => this.#failed.reject(error));
  }
}

/** Copy tables from one snapshot; what is wrong with them stops them, and nothing else. */
async function copy(
  deps: LanesDeps,
  records: readonly RelationRecord[],
  signal: AbortSignal,
): Promise<void> {
  const { shadow, epoch, floor, meter } = deps;
  // Until the snapshot is on record, nothing else says from where on the spool is needed.
  using _ = floor.pin(meter.appliedLsn);
  try {
    await reseedTables(deps, records, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof OperatorError) || !FAILS_A_COPY.has(error.code)) throw error;
    if (isTransient(error)) {
      // Such as a deadlock or a full disk: the ledger still says that they are to be copied.
      deps.log.warn({ code: error.code }, 'a copy was interrupted');
      await deps.clock.sleep(RETRY_MS, signal);
      return;
    }
    const culprit = Number(error.detail['relation']);
    const failed = records.filter(({ sourceOid }) => sourceOid === culprit);
    // The others are copied by the next attempt.
    const stopped = failed.length === 0 ? records : failed;
    await using target = await openSession(deps.target, {
      applicationName: `understudy ${shadow.shadowId} lanes`,
      answerMsMax: ANSWER_MS_MAX,
    });
    await leaveReseed(
      { target, shadowId: shadow.shadowId, epoch },
      stopped.map(({ sourceOid }) => sourceOid),
      error,
    );
    deps.report({
      type: 'notice',
      level: 'warn',
      message: `copying ${stopped.map(quoteTable).join(', ')} has failed: ${error.message}`,
    });
  }
}
