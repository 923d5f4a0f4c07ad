import { open, unlink } from 'node:fs/promises';

import { corruptError, fileError, segmentPath, listSegments, syncDirectory } from './files.ts';
import { HEADER_BYTES, MAGIC_BYTES, type SpoolBlock } from './format.ts';
import { SegmentFile } from './segment-file.ts';
import type { Segments } from './segments.ts';
import type { TransactionTracker } from './tracker.ts';

/** Where writing goes on: always in a segment of its own. */
export type Recovered = { readonly segment: number; readonly sequence: bigint };

/**
 * Read every segment, rebuild what the tracker knows, and cut off a torn tail.
 *
 * Only the last segment can be torn, since each was made durable before the next was created, and only
 * behind what was made durable. Anything else that is not a sequence of whole blocks is SPOOL_CORRUPT.
 * A last durable block that is damaged, with nothing after it that says so, looks torn: then the
 * spool's end is before what was confirmed to the source, and who starts the stream must refuse (trap 15).
 */
export async function recoverSegments(segments: Segments): Promise<Recovered> {
  const { directory, tracker } = segments;
  const numbers = await listSegments(directory);
  let sequence = 0n;
  for (const [index, segment] of numbers.entries()) {
    const isLast = index === numbers.length - 1;
    const expected = (numbers[0] ?? 0) + index;
    if (segment !== expected) {
      throw corruptError(segmentPath(directory, expected), 0, 'the segment is missing');
    }
    const scanned = await scanSegment(segments, segment, index === 0 ? undefined : sequence);
    if (!isLast && (scanned.end < scanned.bytes || scanned.end === 0)) {
      throw corruptError(segmentPath(directory, segment), scanned.end, 'its checksum is wrong');
    }
    if (isLast) await makeDurable(directory, segment, scanned.end);
    if (scanned.end > 0) {
      segments.written(segment, scanned.end);
      segments.madeDurable(segment);
    }
    sequence = scanned.sequence;
  }
  tracker.reset(Number.POSITIVE_INFINITY);
  // A last segment that was torn in its first block is gone, so its number is free.
  return { segment: segments.last + 1, sequence };
}

type Scan = {
  /** End of the last whole block. */
  readonly end: number;
  readonly bytes: number;
  /** Of the block that comes next. */
  readonly sequence: bigint;
};

async function scanSegment(
  segments: Segments,
  segment: number,
  firstSequence: bigint | undefined,
): Promise<Scan> {
  const { directory, tracker } = segments;
  const path = segmentPath(directory, segment);
  await using file = await SegmentFile.open(directory, segment);
  const bytes = await file.size();
  let sequence = firstSequence;
  let end = 0;
  for (;;) {
    const block = await file.readBlock(end, bytes);
    if (block === undefined) break;
    if (block.sequence !== (sequence ?? block.sequence)) {
      throw corruptError(path, end, 'blocks before it are missing');
    }
    if (end === 0) {
      tracker.raise(block.endLsn, block.commitEndLsn);
      tracker.beginSegment(segment);
    }
    observeBlock(tracker, block);
    sequence = block.sequence + 1n;
    end = block.next.offset;
  }
  if (end < bytes) await refuseDamage(file, end, bytes);
  return { end, bytes, sequence: sequence ?? 0n };
}

function observeBlock(tracker: TransactionTracker, block: SpoolBlock): void {
  if (block.kind === 'reset') tracker.reset(block.position.offset);
  if (block.kind === 'messages') {
    tracker.enterBlock(block.position.offset);
    for (let i = 0; i < block.offsets.length; i += 2) {
      tracker.observe(block.bytes, block.offsets[i] ?? 0, block.offsets[i + 1] ?? 0);
    }
  }
  if (block.kind === 'position') tracker.advance(block.endLsn);
}

/** Look behind a bad block for a good one that knows the bad one as durable. */
async function refuseDamage(file: SegmentFile, bad: number, bytes: number): Promise<void> {
  const overlap = MAGIC_BYTES.length - 1;
  for (let at = bad + 1; at < bytes;) {
    const window = await file.read(at, Math.min(SEARCH_BYTES, bytes - at), bytes);
    const found = window.indexOf(MAGIC_BYTES);
    if (found === -1) {
      at += Math.max(window.length - overlap, 1);
      continue;
    }
    at += found;
    const header = bytes - at < HEADER_BYTES ? undefined : await file.readHeader(at, bytes);
    if (header && header.durableBytes > bad) {
      throw corruptError(file.path, bad, 'its checksum is wrong');
    }
    at += 1;
  }
}

const SEARCH_BYTES = 64 * 1024;

/** Cut behind `end` and sync: a block that survived in memory only is durable from now on. */
async function makeDurable(directory: string, segment: number, end: number): Promise<void> {
  const path = segmentPath(directory, segment);
  try {
    if (end === 0) {
      await unlink(path);
    } else {
      await using handle = await open(path, 'r+');
      await handle.truncate(end);
      await handle.sync();
    }
    await syncDirectory(directory);
  } catch (error) {
    throw fileError(path, 'recover', error);
  }
}
