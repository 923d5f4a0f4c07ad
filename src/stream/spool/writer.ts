import type { FileHandle } from 'node:fs/promises';

import type { Lsn } from '#src/core/lsn.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

import { FILE_MODE, fileError, type OpenFile, segmentPath, syncDirectory } from './files.ts';
import {
  type BlockKind,
  blockOfMessages,
  HEADER_BYTES,
  MESSAGE_HEADER_BYTES,
  sealBlock,
  writeMessageHeader,
} from './format.ts';
import type { Segments } from './segments.ts';
import { Milestone } from './signals.ts';

/**
 * Appends messages to the last segment.
 *
 * ```
 * append ─copy─► block ─seal─► queue ─pump (one at a time)─► file ─fdatasync (one at a time)─► durable
 * ```
 *
 * Order of effects, which recovery relies on: a segment is durable before the next one is created, so
 * that only the last one can have a torn tail; a segment ends only where no transaction and no block of
 * a stream is open, so that reading can begin at any segment.
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

type QueuedBlock = {
  readonly type: 'block';
  readonly buffer: Buffer;
  readonly bytes: number;
  readonly kind: BlockKind;
  readonly count: number;
  readonly firstWal: bigint;
  readonly lastWal: bigint;
  readonly endLsn: Lsn;
  readonly commitEndLsn: Lsn;
  /** How many appends are in the file once this block is. */
  readonly appended: number;
};
type QueuedSegment = { readonly type: 'segment'; readonly segment: number };

type CurrentFile = { readonly handle: FileHandle; readonly path: string; readonly segment: number };

export class SpoolWriter {
  readonly #segments: Segments;
  readonly #options: WriterOptions;

  /** The block being filled; sealed when full, or when a flush wants it and the disk is idle. */
  #block: Buffer;
  #blockUsed = HEADER_BYTES;
  #blockCount = 0;
  #firstWal = 0n;
  #lastWal = 0n;
  #spare: Buffer[] = [];
  /** Bytes of the segment being appended to, queued ones included. */
  #segmentUsed = 0;
  #appendSegment: number;

  readonly #queue: (QueuedBlock | QueuedSegment)[] = [];
  #queuedBytes = 0;
  #appended = 0;
  #flushWanted = 0;
  readonly #written = new Milestone();
  readonly #durable = new Milestone();
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
    this.#block = Buffer.allocUnsafeSlow(options.blockBytes);
    this.#sequence = start.sequence;
    this.#appendSegment = start.segment;
    this.#writtenLsn = segments.tracker.contiguousEnd;
    this.#durableLsn = this.#writtenLsn;
    this.#beginSegment(start.segment);
  }

  /** Commit end of the last whole transaction that is on disk for good: what may be confirmed. */
  get durableLsn(): Lsn {
    return this.#durableLsn;
  }

  /** The same for what readers can see. */
  get writtenLsn(): Lsn {
    return this.#writtenLsn;
  }

  /** As far as appended: the position that a sync started now makes durable. */
  get appendedLsn(): Lsn {
    return this.#segments.tracker.contiguousEnd;
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
    const promoted = this.#segments.tracker.observe(source, start, end);
    this.#put(source, start, end, walStart);
    this.#appended += 1;
    if (promoted) this.#seal();
    if (promoted) this.#enqueue('relations', blockOfMessages(promoted), promoted.length);
    this.#cutIfLarge();
    return this.#hasRoom();
  }

  /** A new connection to the source begins: what is unfinished is void, the source sends it again. */
  reset(): void {
    this.#seal();
    this.#segments.tracker.reset();
    this.#appended += 1;
    this.#enqueue('reset', blockOfMessages([]), 0);
    this.#cutIfLarge();
  }

  /**
   * The source has sent everything up to `position` (a keepalive while nothing was in flight). Without
   * this record a confirmed keepalive would be past the spool's end, and look like a hole (trap 15).
   */
  advance(position: Lsn): boolean {
    assert(this.#segments.tracker.isAtBoundary, 'a keepalive position between transactions');
    if (position > this.#segments.tracker.contiguousEnd) {
      this.#seal();
      this.#segments.tracker.advance(position);
      this.#appended += 1;
      this.#enqueue('position', blockOfMessages([]), 0);
      this.#cutIfLarge();
    }
    return this.#hasRoom();
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
    const target = this.#appended;
    this.#flushWanted = target;
    this.#pump();
    await this.#written.reach(target);
  }

  /** Everything appended so far is on disk for good. One fdatasync serves all who wait for it. */
  async sync(): Promise<Lsn> {
    if (this.#segments.broken) throw this.#segments.broken;
    const target = this.#appended;
    this.#flushWanted = target;
    const reached = this.#durable.reach(target);
    this.#pump();
    void this.#syncWhileAwaited();
    await reached;
    return this.#durableLsn;
  }

  /** Write and sync what is left, as far as the disk lets us: what is not durable was not confirmed. */
  async close(): Promise<void> {
    await this.sync().catch(() => undefined);
    this.#segments.broken ??= new OperatorError('SPOOL_UNUSABLE', 'the spool is closed');
    await this.#pumping;
    await this.#file?.handle.close();
    this.#file = undefined;
    this.#segments.changes.notify();
  }

  #put(source: Buffer, start: number, end: number, walStart: bigint): void {
    const needed = MESSAGE_HEADER_BYTES + end - start;
    if (this.#blockUsed + needed > this.#block.length) {
      this.#seal();
      if (HEADER_BYTES + needed > this.#block.length) {
        this.#block = Buffer.allocUnsafeSlow(HEADER_BYTES + needed);
      }
    }
    const at = this.#blockUsed;
    writeMessageHeader(this.#block, at, end - start, walStart);
    copyBytes(source, start, end, this.#block, at + MESSAGE_HEADER_BYTES);
    if (this.#blockCount === 0) this.#firstWal = walStart;
    this.#lastWal = walStart;
    this.#blockCount += 1;
    this.#blockUsed = at + needed;
  }

  /** Queue the block being filled, if anything is in it. */
  #seal(): void {
    if (this.#blockCount === 0) return;
    const full = this.#block.subarray(0, this.#blockUsed);
    this.#enqueue('messages', full, this.#blockCount);
    this.#block = this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#options.blockBytes);
    this.#blockUsed = HEADER_BYTES;
    this.#blockCount = 0;
    this.#firstWal = 0n;
    this.#lastWal = 0n;
  }

  #enqueue(kind: BlockKind, buffer: Buffer, count: number): void {
    const isMessages = kind === 'messages';
    this.#queue.push({
      type: 'block',
      buffer,
      bytes: buffer.buffer.byteLength,
      kind,
      count,
      firstWal: isMessages ? this.#firstWal : 0n,
      lastWal: isMessages ? this.#lastWal : 0n,
      endLsn: this.#segments.tracker.contiguousEnd,
      commitEndLsn: this.#segments.tracker.commitEnd,
      appended: this.#appended,
    });
    this.#queuedBytes += buffer.buffer.byteLength;
    this.#segmentUsed += buffer.length;
    if (this.#failure === undefined) this.#pump();
  }

  #cutIfLarge(): void {
    if (!this.#segments.tracker.isAtBoundary) return;
    const used = this.#segmentUsed + this.#blockUsed;
    if (used < this.#options.segmentBytes) return;
    this.#seal();
    this.#beginSegment(this.#appendSegment + 1);
  }

  #beginSegment(segment: number): void {
    this.#appendSegment = segment;
    this.#segmentUsed = 0;
    this.#segments.tracker.beginSegment(segment);
    this.#queue.push({ type: 'segment', segment });
    const relations = this.#segments.tracker.relations();
    this.#enqueue('relations', blockOfMessages(relations), relations.length);
  }

  #hasRoom(): boolean {
    return (
      this.#failure === undefined &&
      this.#queuedBytes <= this.#options.queueBytesMax &&
      this.#segments.bytes < this.#options.bytesMax
    );
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
        const flushWaits = this.#flushWanted > this.#written.value;
        if (this.#queue.length === 0 && flushWaits) this.#seal();
        const next = this.#queue[0];
        if (next === undefined || this.#segments.broken) break;
        if (next.type === 'segment') await this.#openSegment(next.segment);
        else await this.#writeBlock(next);
        this.#queue.shift();
        if (next.type === 'block') this.#blockWritten(next);
      }
    } catch (error) {
      this.#fail(fileError(this.#segments.directory, 'write', error));
    } finally {
      this.#pumping = undefined;
    }
  }

  #blockWritten(block: QueuedBlock): void {
    this.#queuedBytes -= block.bytes;
    this.#sequence += 1n;
    this.#writtenLsn = block.endLsn;
    const { segment } = this.#currentFile();
    this.#segments.written(segment, this.#writtenBytes(segment) + block.buffer.length);
    this.#written.advance(block.appended);
    this.#options.failpoints.hit('spool.afterWrite');
    const isStandard = block.bytes === this.#options.blockBytes;
    if (isStandard && this.#spare.length < 4) this.#spare.push(Buffer.from(block.buffer.buffer));
  }

  #writtenBytes(segment: number): number {
    return this.#segments.last === segment ? this.#segments.writtenBytes(segment) : 0;
  }

  #currentFile(): CurrentFile {
    assert(this.#file, 'whatever is written is in a segment that is open, or durable');
    return this.#file;
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
    const offset = this.#writtenBytes(segment);
    sealBlock(block.buffer, {
      ...block,
      sequence: this.#sequence,
      durableBytes: this.#durableBytes,
    });
    let done = 0;
    try {
      while (done < block.buffer.length) {
        const rest = block.buffer.length - done;
        done += (await handle.write(block.buffer, done, rest, offset + done)).bytesWritten;
      }
    } catch (error) {
      // Nothing torn stays, and on a full disk the space is free again. Readers never saw it.
      await handle.truncate(offset).catch(() => undefined);
      throw fileError(path, 'write', error);
    }
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
      this.#durable.fail(fileError(this.#segments.directory, 'write', error));
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
    } catch (error) {
      throw await this.#breakAt(file, error);
    } finally {
      this.#syncInFlight = undefined;
      resolve();
    }
    this.#durableBytes = bytes;
    this.#durableLsn = durableLsn;
    this.#durable.advance(appended);
    this.#options.failpoints.hit('spool.afterSync');
  }

  /**
   * After a failed fdatasync the kernel may call lost pages clean, and a second one succeeds without
   * them (https://wiki.postgresql.org/wiki/Fsync_Errors). So what is not durable is thrown away, for the
   * source to send again, and this process writes no more.
   */
  async #breakAt(file: CurrentFile, cause: unknown): Promise<Error> {
    const error = fileError(file.path, 'sync', cause);
    this.#segments.broken = error;
    await file.handle.truncate(this.#durableBytes).catch(() => undefined);
    this.#fail(error);
    return error;
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#written.fail(error);
    this.#durable.fail(error);
    this.#segments.changes.notify();
  }
}

/** A loop beats the native copy for short messages. */
function copyBytes(source: Buffer, start: number, end: number, target: Buffer, at: number): void {
  if (end - start >= 48) {
    source.copy(target, at, start, end);
    return;
  }
  for (let from = start, to = at; from < end; from++, to++) target[to] = source[from] ?? 0;
}
