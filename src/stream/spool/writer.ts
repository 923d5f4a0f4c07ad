import type { FileHandle } from 'node:fs/promises';

import type { Lsn } from '#src/core/lsn.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { CommitPoint } from '#src/wire/postgres/pgoutput.ts';

import { BlockQueue, type QueuedBlock } from './block-queue.ts';
import { FILE_MODE, fileError, type OpenFile, segmentPath, syncDirectory } from './files.ts';
import { sealBlock } from './format.ts';
import type { Segments } from './segments.ts';
import { Milestone } from './signals.ts';

/**
 * Appends to the last segment.
 *
 * ```
 * append ─copy─► block ─seal─► queue ─pump, one block at a time─► file ─fdatasync, one at a time─► durable
 * ```
 *
 * A segment is durable before the next one is created, so that only the last one can have a torn tail.
 * Writing goes on while an fdatasync runs; whoever asks for one meanwhile shares the next.
 */
export type WriterOptions = {
  readonly segmentBytes: number;
  readonly blockBytes: number;
  /** Blocks in memory that are not written yet. */
  readonly queueBytesMax: number;
  /** On disk; reached, the writer has no room until the spool is trimmed. */
  readonly bytesMax: number;
  readonly openFile: OpenFile;
  readonly failpoints: Failpoints;
};

type CurrentFile = { readonly handle: FileHandle; readonly path: string; readonly segment: number };

export class SpoolWriter {
  readonly #segments: Segments;
  readonly #options: WriterOptions;
  readonly #queue: BlockQueue;
  /** Counted in appends. */
  readonly #written = new Milestone();
  readonly #durable = new Milestone();
  /** A flush waits for as many appends: the block being filled is sealed once the disk is idle. */
  #flushWanted = 0;
  #writtenLsn: Lsn;
  #durableLsn: Lsn;
  #sequence: bigint;

  #file: CurrentFile | undefined;
  #durableBytes = 0;
  #pumping: Promise<void> | undefined;
  #isSyncing = false;
  #syncInFlight: Promise<void> | undefined;
  /** Why the pump stopped; the next flush, sync or room tries again. */
  #failure: Error | undefined;

  constructor(
    segments: Segments,
    start: { readonly segment: number; readonly sequence: bigint },
    options: WriterOptions,
  ) {
    this.#segments = segments;
    this.#options = options;
    this.#queue = new BlockQueue(segments.tracker, start.segment, options);
    this.#sequence = start.sequence;
    this.#writtenLsn = segments.tracker.contiguousEnd;
    this.#durableLsn = this.#writtenLsn;
  }

  /** Commit end of the last whole transaction that is on disk for good: what may be confirmed. */
  get durableLsn(): Lsn {
    return this.#durableLsn;
  }

  /** The same for what readers can see. */
  get writtenLsn(): Lsn {
    return this.#writtenLsn;
  }

  /** The same for all that was appended: what a sync started now makes durable. */
  get appendedLsn(): Lsn {
    return this.#segments.tracker.contiguousEnd;
  }

  /** The last transaction that was appended, if it was not trimmed before this opening. */
  get newestCommit(): CommitPoint | undefined {
    return this.#segments.tracker.newestCommit;
  }

  /** The disk limit is reached; only trimming makes room. */
  get isFull(): boolean {
    return this.#segments.bytes >= this.#options.bytesMax;
  }

  /**
   * Take over one pgoutput message, `source[start..end)`, copying it. The message is always taken;
   * false means: wait for `room` before reading more. It reaches the file when a block is full or at
   * `flush`. Throws PROTOCOL_VIOLATION when it cannot come here, and what broke the spool earlier.
   */
  append(source: Buffer, start: number, end: number, walStart: bigint): boolean {
    if (this.#segments.broken) throw this.#segments.broken;
    this.#queue.append(source, start, end, walStart);
    return this.#pumpAndLook();
  }

  /** A new connection to the source begins: what is unfinished is void, the source sends it again. */
  reset(): boolean {
    if (this.#segments.broken) throw this.#segments.broken;
    this.#queue.reset();
    return this.#pumpAndLook();
  }

  /**
   * The source has sent everything up to `position` (a keepalive while nothing was in flight). Without
   * this record a confirmed keepalive would be past the spool's end, and look like a hole (trap 15).
   */
  advance(position: Lsn): boolean {
    if (this.#segments.broken) throw this.#segments.broken;
    this.#queue.advance(position);
    return this.#pumpAndLook();
  }

  /**
   * Resolves when more may be appended. Rejects with SPOOL_FULL or SPOOL_UNUSABLE when the disk refuses
   * (calling again tries again), and with `signal.reason` when aborted.
   */
  async room(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#failure) await this.flush();
    for (;;) {
      signal.throwIfAborted();
      if (this.#segments.broken) throw this.#segments.broken;
      if (this.#failure) throw this.#failure;
      if (this.#hasRoom()) return;
      await this.#segments.changes.next(signal);
    }
  }

  /** Everything appended so far is in the file, and readers see it. Rejects as `room` does. */
  async flush(): Promise<void> {
    if (this.#segments.broken) throw this.#segments.broken;
    const target = this.#queue.appended;
    this.#flushWanted = target;
    this.#pump();
    await this.#written.reach(target);
  }

  /** Everything appended so far is on disk for good. One fdatasync serves all who wait for it. */
  async sync(): Promise<Lsn> {
    if (this.#segments.broken) throw this.#segments.broken;
    const target = this.#queue.appended;
    this.#flushWanted = target;
    const reached = this.#durable.reach(target);
    this.#pump();
    void this.#syncWhileAwaited();
    await reached;
    return this.#durableLsn;
  }

  /** Write and sync what is left, as far as the disk lets us: what is not durable was not confirmed. */
  async close(): Promise<void> {
    if (!this.#segments.broken) await this.sync().catch(() => undefined);
    this.#segments.broken ??= new OperatorError('SPOOL_UNUSABLE', 'the spool is closed');
    this.#segments.changes.notify();
    await this.#pumping;
    await this.#file?.handle.close();
    this.#file = undefined;
  }

  #hasRoom(): boolean {
    return this.#queue.bytes <= this.#options.queueBytesMax && !this.isFull;
  }

  /** After a failure the pump rests until somebody waits for it: a full disk is not asked per message. */
  #pumpAndLook(): boolean {
    if (this.#failure) return false;
    if (this.#queue.first) this.#pump();
    return this.#hasRoom();
  }

  #pump(): void {
    if (this.#pumping || this.#segments.broken) return;
    this.#failure = undefined;
    this.#pumping = this.#pumpQueue();
  }

  async #pumpQueue(): Promise<void> {
    // The caller goes on first: what it is about to append may still come into this round.
    await Promise.resolve();
    try {
      for (;;) {
        if (!this.#queue.first && this.#flushWanted > this.#written.value) this.#queue.seal();
        const item = this.#queue.first;
        if (item === undefined || this.#segments.broken) break;
        if (item.type === 'segment') await this.#openSegment(item.segment);
        else await this.#writeBlock(item);
        this.#queue.shift();
      }
    } catch (error) {
      this.#fail(fileError(this.#segments.directory, 'write', error));
    } finally {
      this.#pumping = undefined;
    }
  }

  async #openSegment(segment: number): Promise<void> {
    const { directory } = this.#segments;
    const previous = this.#file;
    if (previous) {
      while (this.#syncInFlight) await this.#syncInFlight;
      await this.#syncFile(previous);
      this.#file = undefined;
      await previous.handle.close();
    }
    const path = segmentPath(directory, segment);
    this.#options.failpoints.hit('spool.beforeCut');
    try {
      // Not exclusive: a repetition after a full disk finds the empty file of the first attempt.
      const handle = await this.#options.openFile(path, 'w', FILE_MODE);
      this.#file = { handle, path, segment };
      this.#durableBytes = 0;
      await syncDirectory(directory);
    } catch (error) {
      throw fileError(path, 'create', error);
    }
    this.#options.failpoints.hit('spool.afterCut');
  }

  async #writeBlock(block: QueuedBlock): Promise<void> {
    const { handle, path, segment } = this.#currentFile();
    const { buffer } = block;
    const offset = this.#writtenBytes(segment);
    const durableBytes = this.#durableBytes;
    sealBlock(buffer, { ...block, sequence: this.#sequence, durableBytes });
    this.#options.failpoints.hit('spool.beforeWrite');
    let done = 0;
    try {
      while (done < buffer.length) {
        const rest = buffer.length - done;
        done += (await handle.write(buffer, done, rest, offset + done)).bytesWritten;
      }
    } catch (error) {
      // Nothing torn stays, and on a full disk the space is free again. Readers never saw it.
      await handle.truncate(offset).catch(() => undefined);
      throw fileError(path, 'write', error);
    }
    this.#sequence += 1n;
    this.#writtenLsn = block.endLsn;
    this.#segments.written(segment, offset + buffer.length);
    this.#written.advance(block.appended);
    this.#options.failpoints.hit('spool.afterWrite');
  }

  #writtenBytes(segment: number): number {
    return this.#segments.last === segment ? this.#segments.writtenBytes(segment) : 0;
  }

  #currentFile(): CurrentFile {
    assert(this.#file, 'whatever is written is in a segment that is open, or durable');
    return this.#file;
  }

  async #syncWhileAwaited(): Promise<void> {
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    try {
      for (;;) {
        const target = this.#durable.awaited;
        if (target === undefined) break;
        await this.#written.reach(target);
        if (this.#syncInFlight) await this.#syncInFlight;
        else await this.#syncFile(this.#currentFile());
      }
    } catch (error) {
      this.#durable.fail(fileError(this.#segments.directory, 'sync', error));
    } finally {
      this.#isSyncing = false;
    }
  }

  /** At most one at a time: the kernel reports a lost write to one of them only. */
  async #syncFile(file: CurrentFile): Promise<void> {
    assert(this.#syncInFlight === undefined, 'one fdatasync at a time');
    const appended = this.#written.value;
    const durableLsn = this.#writtenLsn;
    const bytes = this.#writtenBytes(file.segment);
    this.#options.failpoints.hit('spool.beforeSync');
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#syncInFlight = promise;
    try {
      await file.handle.datasync();
      this.#durableBytes = bytes;
      this.#durableLsn = durableLsn;
      if (bytes > 0) this.#segments.madeDurable(file.segment);
      this.#durable.advance(appended);
    } catch (error) {
      throw await this.#break(file, error);
    } finally {
      this.#syncInFlight = undefined;
      resolve();
    }
    this.#options.failpoints.hit('spool.afterSync');
  }

  /**
   * After a failed fdatasync the kernel may call lost pages clean, and a second one succeeds without
   * them (https://wiki.postgresql.org/wiki/Fsync_Errors). So what is not durable is thrown away, for the
   * source to send again, and this process writes no more.
   */
  async #break(file: CurrentFile, cause: unknown): Promise<Error> {
    const error = fileError(file.path, 'sync', cause);
    this.#segments.broken = error;
    this.#fail(error);
    await file.handle.truncate(this.#durableBytes).catch(() => undefined);
    return error;
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#written.fail(error);
    this.#durable.fail(error);
    this.#segments.changes.notify();
  }
}
