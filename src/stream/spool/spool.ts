import { open, readdir } from 'node:fs/promises';

import type { Lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { type Failpoints, NO_FAILPOINTS } from '#src/lib/failpoint.ts';

import { createDirectory, errnoOf, fileError, type OpenFile } from './files.ts';
import {
  checkIdentity,
  IDENTITY_NAME,
  readIdentity,
  type SpoolIdentity,
  writeIdentity,
} from './identity.ts';
import { LOCK_NAME, lockDirectory } from './lock.ts';
import { SpoolReader } from './reader.ts';
import { recoverSegments } from './recover.ts';
import { Segments } from './segments.ts';
import { TransactionTracker } from './tracker.ts';
import { SpoolWriter } from './writer.ts';

/**
 * The local log between the receiver and the applier: pgoutput messages as received, in order, in
 * segments with checksums (format.ts). What is durable here may be confirmed to the source (I12); the
 * applier reads at its own pace, so memory does not depend on how slow the target is.
 *
 * ```
 * await using spool = await openSpool({ directory, identity, mode: 'create' or 'resume', bytesMax, … });
 *
 * receiver:  spool.writer.reset()                                  after each START_REPLICATION, which may
 *                                                                  ask for everything after durableLsn
 *            if (!spool.writer.append(buffer, start, end, walStart)) await spool.writer.room(signal)
 *            await spool.writer.flush()                            readers see it
 *            confirm(await spool.writer.sync())                    or spool.writer.durableLsn at any time
 *            spool.writer.advance(keepaliveLsn)                    idle, between transactions
 *
 * applier:   await using reader = spool.reader(appliedLsn)
 *            const block = await reader.read(signal)               kinds: see BlockKind in format.ts
 *            for (let i = 0; i < block.offsets.length; i += 2)
 *              decode(block.bytes, block.offsets[i], block.offsets[i + 1])
 *            await reader.readAt(position)                         again, for a stream's extents
 *            await spool.trim(flushedLsn)
 * ```
 *
 * What the applier must do: skip a transaction whose commit end is at or before that of the last one it
 * took (the source repeats some after a reset), but take the Relation and Type messages inside of it; on
 * `reset` drop a transaction in progress and
 * all streams that did not commit; keep the Relations of a stream to that stream. Those that a stream's
 * commit made valid for all come again in a `relations` block right behind the commit, so that a stream
 * which is skipped need not be read. A stream whose first block (Stream Start with 1) was not read is
 * void: reading began behind it, because it is aborted, reset or applied by what follows. A reset in the
 * middle of a transaction is met only by who was already in it; from a new reader it is left out.
 *
 * Reading may begin at any segment: each starts with the Relations that hold there, and no transaction
 * and no Stream Start … Stream Stop spans segments. A segment therefore grows past its size when one
 * transaction is larger: nothing is lost by it, since none of it could be trimmed before its commit.
 */
export type SpoolOptions = {
  /** One folder per shadow. Mode `create` makes it; one that exists must be a spool or empty. */
  readonly directory: string;
  readonly identity: SpoolIdentity;
  /** Also open a spool of one of these, which stays as it is until `moveTo` says otherwise. */
  readonly formerTimelines?: readonly number[];
  /** From where on a spool that is made now will have everything, if not from the slot's creation. */
  readonly startLsn?: Lsn;
  /** `create` also opens a spool that is there, if its identity is the same; `resume` demands one. */
  readonly mode: 'create' | 'resume';
  /** The most that the spool may hold on disk; past it the writer has no room. */
  readonly bytesMax: number;
  readonly segmentBytes?: number;
  readonly blockBytes?: number;
  readonly queueBytesMax?: number;
  readonly failpoints?: Failpoints;
  readonly openFile?: OpenFile;
};

const SEGMENT_BYTES = 64 * 1024 * 1024;
const BLOCK_BYTES = 256 * 1024;
const QUEUE_BYTES_MAX = 8 * 1024 * 1024;

/**
 * Open, and recover after a crash. The spool begins with a `reset`.
 *
 * Throws SPOOL_MISSING, SOURCE_CHANGED (another identity), SPOOL_CORRUPT, SPOOL_FULL, SPOOL_UNUSABLE,
 * LEASE_HELD (another process has it open), CONFIG_INVALID (a folder with something else in it).
 */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { directory, identity, failpoints = NO_FAILPOINTS } = options;
  const { startLsn = identity.createdLsn } = options;
  await using cleanup = new AsyncDisposableStack();
  try {
    await prepareDirectory(directory, options.mode);
    cleanup.use(await lockDirectory(directory));
    const found = await readIdentity(directory);
    if (found) checkIdentity(directory, found, identity, options.formerTimelines ?? []);
    else if (options.mode === 'create') {
      failpoints.hit('identity.before');
      await writeIdentity(directory, { ...identity, startLsn });
      failpoints.hit('identity.after');
    } else throw missingError(directory);

    const segments = new Segments(
      directory,
      new TransactionTracker(identity.createdLsn),
      found?.startLsn ?? startLsn,
      failpoints,
    );
    const start = await recoverSegments(segments);
    const writer = new SpoolWriter(segments, start, {
      bytesMax: options.bytesMax,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      blockBytes: options.blockBytes ?? BLOCK_BYTES,
      queueBytesMax: options.queueBytesMax ?? QUEUE_BYTES_MAX,
      failpoints,
      openFile: options.openFile ?? open,
    });
    cleanup.defer(async () => writer.close());
    writer.reset();
    await writer.sync();
    return new Spool(segments, writer, cleanup.move());
  } catch (error) {
    throw fileError(directory, 'open', error);
  }
}

export class Spool implements AsyncDisposable {
  readonly writer: SpoolWriter;
  readonly #segments: Segments;
  readonly #owned: AsyncDisposable;

  constructor(segments: Segments, writer: SpoolWriter, owned: AsyncDisposable) {
    this.#segments = segments;
    this.writer = writer;
    this.#owned = owned;
  }

  get directory(): string {
    return this.#segments.directory;
  }

  /** Every transaction that ended after it is here, as far as it was received. */
  get startLsn(): Lsn {
    return this.#segments.startLsn;
  }

  /** What is kept on disk for whoever has applied up to `from`, and not for who has up to `until`. */
  bytesBetween(from: Lsn, until: Lsn): number {
    return this.#segments.bytesBetween(from, until);
  }

  /** On disk. */
  get bytes(): number {
    return this.#segments.bytes;
  }

  /** Commit end of the last whole transaction that is on disk for good: what may be confirmed. */
  get durableLsn(): Lsn {
    return this.writer.durableLsn;
  }

  /**
   * Read from where somebody must who has applied all transactions with a commit end up to `applied`.
   * Transactions that are applied already may come first. Throws SPOOL_MISSING when `applied` is before
   * what was trimmed.
   */
  reader(applied: Lsn): SpoolReader {
    return new SpoolReader(this.#segments, this.#segments.startFor(applied));
  }

  /**
   * Remove the segments that hold nothing of a transaction, streamed or not, whose commit end is after
   * `flushed`. That must be a position whose commit is flushed on the target: an asynchronous commit may
   * be lost with the target's next crash, and then it is needed again (trap 16).
   */
  async trim(flushed: Lsn): Promise<void> {
    await this.#segments.trim(flushed);
  }

  /**
   * The source is proven to go on, on another timeline, with all that is in here. On disk when it returns.
   */
  async moveTo(identity: SpoolIdentity): Promise<void> {
    await writeIdentity(this.directory, { ...identity, startLsn: this.startLsn });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned[Symbol.asyncDispose]();
  }
}

/**
 * The stream holds row values, so the folder and its files are for their owner only (trap 16). A folder
 * that somebody else made keeps its mode, and must be empty: it might be anything, such as /tmp.
 */
async function prepareDirectory(directory: string, mode: SpoolOptions['mode']): Promise<void> {
  if (mode === 'create') await createDirectory(directory);
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    throw errnoOf(error) === 'ENOENT' ? missingError(directory) : error;
  }
  if (names.includes(IDENTITY_NAME)) return;
  const other = names.find((name) => !isLeftover(name));
  if (other === undefined) return;
  throw new OperatorError(
    'CONFIG_INVALID',
    `the folder ${directory} is not a spool and not empty: it holds ${other}`,
    { detail: { directory } },
  );
}

/** What a crash may leave in a new spool that has no identity yet. */
function isLeftover(name: string): boolean {
  return name.startsWith(LOCK_NAME) || name.startsWith(IDENTITY_NAME);
}

function missingError(directory: string): OperatorError {
  return new OperatorError('SPOOL_MISSING', `there is no spool in ${directory}`, {
    detail: { directory },
  });
}
