import { chmod, mkdir, open } from 'node:fs/promises';

import type { Lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

import { DIRECTORY_MODE, errnoOf, fileError, type OpenFile } from './files.ts';
import { checkIdentity, readIdentity, type SpoolIdentity, writeIdentity } from './identity.ts';
import { lockDirectory } from './lock.ts';
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
 * receiver:  spool.writer.reset()                                  after each START_REPLICATION
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
 * What the applier must do: skip a transaction whose commit end is at or before its applied position,
 * but take the Relation and Type messages inside of it; on `reset` drop a transaction in progress and
 * all streams that did not commit; keep the Relations of a stream to that stream. Those that a stream's
 * commit made valid for all come again in a `relations` block right behind the commit, so that a stream
 * which is skipped need not be read.
 *
 * Reading may begin at any segment: each starts with the Relations that hold there, and no transaction
 * and no Stream Start … Stream Stop spans segments. A segment therefore grows past its size when one
 * transaction is larger: nothing is lost by it, since none of it could be trimmed before its commit.
 */
export type SpoolOptions = {
  /** One folder per shadow; made when missing and mode is `create`. */
  readonly directory: string;
  readonly identity: SpoolIdentity;
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
const NO_FAILPOINTS: Failpoints = { hit: () => undefined };

/**
 * Open, and recover after a crash. The spool begins with a `reset`.
 *
 * Throws SPOOL_MISSING, SOURCE_CHANGED (another identity), SPOOL_CORRUPT, SPOOL_FULL, SPOOL_UNUSABLE,
 * LEASE_HELD (another process has it open).
 */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { directory, identity } = options;
  await using cleanup = new AsyncDisposableStack();
  try {
    await prepareDirectory(options);
    cleanup.use(await lockDirectory(directory));
    const found = await readIdentity(directory);
    if (found) checkIdentity(directory, found, identity);
    else if (options.mode === 'create') await writeIdentity(directory, identity);
    else throw missingError(directory);

    const segments = new Segments(directory, new TransactionTracker(identity.createdLsn));
    const start = await recoverSegments(segments);
    const writer = new SpoolWriter(segments, start, {
      bytesMax: options.bytesMax,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      blockBytes: options.blockBytes ?? BLOCK_BYTES,
      queueBytesMax: options.queueBytesMax ?? QUEUE_BYTES_MAX,
      failpoints: options.failpoints ?? NO_FAILPOINTS,
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

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned[Symbol.asyncDispose]();
  }
}

/** The stream holds row values, so nobody else may read the folder (trap 16). */
async function prepareDirectory(options: SpoolOptions): Promise<void> {
  if (options.mode === 'create') {
    await mkdir(options.directory, { recursive: true, mode: DIRECTORY_MODE });
  }
  try {
    await chmod(options.directory, DIRECTORY_MODE);
  } catch (error) {
    throw errnoOf(error) === 'ENOENT' ? missingError(options.directory) : error;
  }
}

function missingError(directory: string): OperatorError {
  return new OperatorError('SPOOL_MISSING', `there is no spool in ${directory}`, {
    detail: { directory },
  });
}
