import { type Difference, DifferenceList } from '#src/core/difference.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import type { Table, TableName } from '#src/core/table.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import {
  compareLargeObjects,
  type LargeObjectsOutcome,
  NO_LARGE_OBJECTS,
} from '#src/shadow/large-objects/compare-large-objects.ts';
import { readFingerprint } from '#src/shadow/large-objects/fingerprint.ts';
import { noteSame } from '#src/shadow/large-objects/large-object-ledger.ts';

import { compareTable, type TableOutcome } from './compare-table.ts';
import type { PreparedTable, TableComparison } from './comparison.ts';
import { enterMoment, leaveMoment, type Moment, type MomentChoice } from './moment.ts';
import { openPairs, type Pair } from './pair.ts';
import { nameOf, prepare, settle } from './prepare.ts';
import {
  compareSequences,
  describeUnread,
  NO_SEQUENCES,
  readSequencesNow,
  readSequenceValues,
  type SequenceValues,
} from './sequences.ts';
import {
  finishVerification,
  type Marks,
  NO_MARKS,
  readMarks,
  readVerifiedChunks,
  recordTable,
  startVerification,
} from './verify-ledger.ts';

/**
 * Compare both sides exactly, at one moment, while both are in use.
 *
 * One grouped scan a side gives the digest of every chunk of a table; rows are looked at only in chunks
 * that differ. What is found the same goes to the ledger, so that a later run reads on the source only
 * what the change stream has marked dirty since. On the target it reads everything, and compares the rest
 * with the ledger: what others wrote there is in no stream (trap 24).
 */
export type VerifyOptions = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  /** As the source has them. */
  readonly tables: readonly Table[];
  readonly sequences: readonly TableName[];
  /** Whether the database's large objects are compared, too; not when absent. */
  readonly isWithLargeObjects?: boolean;
  /** Of the selection, what is known beforehand not to be compared; it goes into the verdict. */
  readonly leftOut: readonly string[];
  /** Whose ledger is used; undefined to compare without one. */
  readonly shadowId: string | undefined;
  readonly moment: MomentChoice;
  /** Read everything on both sides, whatever the ledger knows. */
  readonly isFull: boolean;
  /** Tables at a time: one session each on either side. */
  readonly jobs: number;
  readonly report: Report;
  readonly failpoints: Failpoints;
  /** Stops between two tables. */
  readonly signal: AbortSignal;
};

export type Verdict = {
  readonly scope: 'full' | 'incremental';
  /** The position at which both sides were compared; undefined when they have none in common. */
  readonly lsn: Lsn | undefined;
  /** What the verdict does not say, as sentences. */
  readonly caveats: readonly string[];
  readonly tables: number;
  /** Rows and chunks read on the source, and the chunks that there are. */
  readonly rows: number;
  readonly chunksRead: number;
  readonly chunks: number;
  readonly differences: number;
  /** The first of them. */
  readonly listed: readonly Difference[];
  /** Columns and tables that were not compared. */
  readonly unverified: readonly string[];
  readonly elapsedMs: number;
  /** Chunks that differ, by table OID. */
  readonly different: ReadonlyMap<number, readonly bigint[]>;
  /** Tables, by OID, that have stopped following: each is a difference. */
  readonly stopped: ReadonlySet<number>;
  readonly largeObjects: LargeObjectsOutcome;
};

const LISTED_MAX = 200;

/** Throws FENCE_TIMEOUT, SLOT_BLOCKED, VERIFY_UNSUPPORTED and what the servers answer. */
export async function verifyShadow(options: VerifyOptions): Promise<Verdict> {
  await using opened = await openPairs(options, Math.max(1, options.jobs));
  await using control = await openSession(options.target, {
    applicationName: 'understudy verify',
  });
  return await new Verification(options, opened.pairs, control).run();
}

class Verification {
  readonly #options: VerifyOptions;
  readonly #pairs: readonly Pair[];
  readonly #control: Session;
  readonly #startedAt = performance.now();
  readonly #found = new DifferenceList(LISTED_MAX);
  readonly #unverified: string[] = [];
  readonly #different = new Map<number, readonly bigint[]>();
  #stopped: ReadonlySet<number> = new Set();
  #largeObjects = NO_LARGE_OBJECTS;
  #rows = 0n;
  #chunksRead = 0;
  #chunks = 0;
  #tables = 0;
  #tablesVerified = 0;

  constructor(options: VerifyOptions, pairs: readonly Pair[], control: Session) {
    this.#options = options;
    this.#pairs = pairs;
    this.#control = control;
  }

  async run(): Promise<Verdict> {
    const { shadowId } = this.#options;
    const options = { ...this.#options, isWithStopped: false };
    const prepared = await prepare({ ...options, pair: this.#pair, control: this.#control });
    let sequences: SequenceValues = NO_SEQUENCES;
    const fingerprint = await readFingerprint(this.#pair.source);
    const moment = await enterMoment({
      choice: this.#options.moment,
      pairs: this.#pairs,
      source: this.#options.source,
      control: this.#control,
      failpoints: this.#options.failpoints,
      onSourceRead: async () => {
        sequences = await readSequencesNow(this.#options.source, this.#options.sequences);
      },
      onBlocked: (blocker) => this.#notice(`the fence waits for ${blocker}`),
    });
    await using fence = moment.fence;
    const theirSequences = await readSequenceValues(this.#control, this.#options.sequences);
    await fence?.release();
    const settled = await settle(this.#pair.target, prepared, options);
    this.#stopped = settled.stopped;
    for (const difference of settled.differences) this.#found.add(difference);
    for (const difference of compareSequences(sequences, theirSequences)) {
      this.#found.add(difference);
    }
    const unread = describeUnread(sequences, theirSequences);
    this.#unverified.push(...this.#options.leftOut, ...settled.unverified, ...unread);
    const marks = shadowId === undefined ? NO_MARKS : await readMarks(this.#pair.target, shadowId);
    const work = await this.#choose(settled.tables, moment, marks);
    this.#tables = work.length;
    const scope = work.some(({ chunks }) => chunks !== undefined) ? 'incremental' : 'full';
    const verificationId =
      shadowId === undefined ? undefined : await startVerification(this.#control, shadowId, scope);
    this.#options.failpoints.hit('verify.afterStart');
    await this.#compareAll(work, moment, marks);
    await this.#compareLargeObjects(moment, fingerprint);
    await leaveMoment(this.#pairs);
    return await this.#conclude(scope, moment, verificationId);
  }

  get #pair(): Pair {
    const [pair] = this.#pairs;
    if (pair === undefined) throw new Error('unreachable: at least one pair is opened');
    return pair;
  }

  /** Which chunks of each table are to be read. */
  async #choose(
    tables: readonly PreparedTable[],
    moment: Moment,
    marks: Marks,
  ): Promise<readonly TableComparison[]> {
    const { shadowId, isFull } = this.#options;
    const isIncremental = shadowId !== undefined && !isFull && moment.fence !== undefined;
    const verified: ReadonlyMap<number, number> = isIncremental
      ? await readVerifiedChunks(this.#control, shadowId)
      : new Map();
    const work = tables.map((comparison): TableComparison => {
      const { oid } = comparison.table;
      const known = verified.get(oid);
      const dirty = [...(marks.chunks.get(oid)?.keys() ?? [])];
      const isWhole = known === undefined || !comparison.isMarked || marks.tables.has(oid);
      if (isWhole) return { ...comparison, chunks: undefined };
      this.#chunks += Math.max(known, dirty.length);
      return { ...comparison, chunks: dirty };
    });
    // The largest first, so that the last one to end is a small one.
    return work.toSorted((a, b) => b.table.pages - a.table.pages);
  }

  async #compareAll(work: readonly TableComparison[], moment: Moment, marks: Marks): Promise<void> {
    const queue = [...work];
    let recording = Promise.resolve();
    await Promise.all(
      this.#pairs.map(async (pair) => {
        for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
          this.#options.signal.throwIfAborted();
          const comparison = next;
          const outcome = await this.#compareOne(pair, comparison);
          if (outcome !== undefined) {
            // One transaction at a time: the control session is shared.
            recording = recording.then(async () =>
              this.#record(comparison, outcome, moment, marks),
            );
            await recording;
          }
          this.#options.failpoints.hit('verify.afterChunk');
        }
      }),
    );
  }

  /** All of them, each time: nothing marks those that have changed. */
  async #compareLargeObjects({ fence }: Moment, fingerprint: string): Promise<void> {
    const { shadowId, signal, isWithLargeObjects } = this.#options;
    if (isWithLargeObjects !== true) return;
    this.#largeObjects = await compareLargeObjects(this.#pair, this.#found, signal);
    const { different, unverified } = this.#largeObjects;
    this.#unverified.push(...unverified);
    if (shadowId === undefined || fence === undefined) return;
    if (different.length + unverified.length > 0) return;
    await noteSame(this.#control, shadowId, fingerprint);
  }

  async #compareOne(pair: Pair, comparison: TableComparison) {
    const { table } = comparison;
    const { shadowId } = this.#options;
    const outcome = await compareTable(pair, comparison, { found: this.#found, shadowId });
    this.#tablesVerified += 1;
    if (outcome === undefined) {
      this.#unverified.push(`${nameOf(table)} (rewritten or locked meanwhile)`);
      return undefined;
    }
    const read = outcome.chunks?.length ?? outcome.same.length + outcome.different.length;
    if (outcome.chunks === undefined) this.#chunks += read;
    this.#chunksRead += read;
    this.#rows += outcome.rows;
    if (outcome.different.length > 0) this.#different.set(table.oid, outcome.different);
    this.#options.report({
      type: 'verifyProgress',
      table: { schema: table.schema, name: table.name },
      tablesVerified: this.#tablesVerified,
      tables: this.#tables,
      rows: Number(this.#rows),
    });
    return outcome;
  }

  async #record(
    { table, isMarked }: TableComparison,
    outcome: TableOutcome,
    { lsn }: Moment,
    marks: Marks,
  ): Promise<void> {
    const { shadowId } = this.#options;
    if (shadowId === undefined || lsn === undefined || !isMarked) return;
    const { oid } = table;
    this.#options.failpoints.hit('verify.beforeRecord');
    await recordTable(this.#control, { ...outcome, shadowId, oid, lsn, marks });
    this.#options.failpoints.hit('verify.afterRecord');
  }

  async #conclude(
    scope: Verdict['scope'],
    { lsn }: Moment,
    verificationId: string | undefined,
  ): Promise<Verdict> {
    const verdict: Verdict = {
      scope,
      lsn,
      caveats: [...caveatsOf(this.#options.moment), ...partsOf(this.#options.tables)],
      tables: this.#tablesVerified,
      rows: Number(this.#rows),
      chunksRead: this.#chunksRead,
      chunks: this.#chunks,
      differences: this.#found.count,
      listed: this.#found.kept,
      unverified: this.#unverified,
      elapsedMs: Math.round(performance.now() - this.#startedAt),
      different: this.#different,
      stopped: this.#stopped,
      largeObjects: this.#largeObjects,
    };
    if (verificationId !== undefined) {
      this.#options.failpoints.hit('verify.beforeFinish');
      await finishVerification(this.#control, verificationId, verdict);
      this.#options.failpoints.hit('verify.afterFinish');
    }
    for (const caveat of verdict.caveats) this.#notice(caveat);
    const { caveats: _, listed: __, different: ___, stopped: ____, ...event } = verdict;
    this.#options.report({
      ...event,
      type: 'verified',
      largeObjects: this.#largeObjects.objects,
      lsn: lsn === undefined ? undefined : formatLsn(lsn),
    });
    return verdict;
  }

  #notice(message: string): void {
    this.#options.report({ type: 'notice', level: 'info', message });
  }
}

/** Of filtered tables, what was compared. */
function partsOf(tables: readonly Table[]): readonly string[] {
  return tables.flatMap((table) => {
    const { rowFilter, excludedColumns } = table;
    const name = nameOf(table);
    return [
      ...(rowFilter === undefined
        ? []
        : [`of table ${name} rows matching (${rowFilter}) were compared with all on the target`]),
      ...(excludedColumns.length === 0
        ? []
        : [`of table ${name} these columns are excluded: ${excludedColumns.join(', ')}`]),
    ];
  });
}

function caveatsOf(moment: MomentChoice): readonly string[] {
  if (moment.kind === 'now') {
    return [
      'no follower keeps a fence: this is exact only if nobody wrote to either side meanwhile',
    ];
  }
  if (moment.kind === 'snapshot') {
    return ['this is exact only if nobody has written to the target since it was copied'];
  }
  return [];
}
