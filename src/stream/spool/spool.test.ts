import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import * as fc from 'fast-check';
import { afterAll, expect, test, vi } from 'vitest';

import { type Lsn, lsn } from '#src/core/lsn.ts';
import type { ScriptedSource, SourceEvent } from '#test/pgoutput-source.ts';
import {
  anySizes,
  anySteps,
  append,
  appendAll,
  applyAll,
  CREATED,
  createScratch,
  deadline,
  IDENTITY,
  messagesOf,
  openTestSpool,
  play,
  readAll,
  transcript,
  transcriptOf,
} from '#test/spool.ts';

import { segmentPath } from './files.ts';
import type { SpoolBlock, SpoolPosition } from './format.ts';

// Most of the time goes into fsync, and a shared disk can be slow.
vi.setConfig({ testTimeout: 30_000 });

const scratch = await createScratch();
afterAll(() => scratch[Symbol.asyncDispose]());

const row = (bytes: number): { table: number; bytes: number; subtransaction: number } => ({
  table: 0,
  bytes,
  subtransaction: 0,
});

/** The events of the last connection. */
function sinceReset(source: ScriptedSource): readonly SourceEvent[] {
  return source.events.slice(1 + source.events.findLastIndex((event) => event.type === 'reset'));
}

/** What a reset cut off is read or not: that depends on which was known first. */
function withoutCutOff(lines: readonly string[]): readonly string[] {
  const kept: string[] = [];
  let boundary = 0;
  for (const line of lines) {
    if (line === 'reset') kept.length = boundary;
    kept.push(line);
    const isInside = kept.slice(boundary).some((one) => one.startsWith('B') || one.startsWith('S'));
    const ends = line.startsWith('C') || line.startsWith('E');
    if (!isInside || ends) boundary = kept.length;
  }
  return kept;
}

test('what is appended is read in the same order, while it is appended', async () => {
  await fc.assert(
    fc.asyncProperty(anySteps, anySizes, async (steps, sizes) => {
      const source = play(steps);
      source.keepalive();
      const { events } = source;
      await using spool = await openTestSpool(scratch.newDirectory(), sizes);
      await using reader = spool.reader(CREATED);
      const writing = appendAll(spool, events).then(() => spool.writer.flush());
      const found: string[] = [];
      const last = transcriptOf(events.slice(-1))[0];
      while (found.at(-1) !== last) found.push(...transcript([await reader.read(deadline())]));
      await writing;
      expect(withoutCutOff(found)).toEqual(withoutCutOff(['reset', ...transcriptOf(events)]));
    }),
    { numRuns: 40 },
  );
});

test('what a new connection cut off is not met again by who starts again', async () => {
  const source = play([]);
  source.transaction([row(10)]);
  source.streamBlock(0, [row(300), row(300)]);
  source.transaction([row(300), row(300), row(300), row(300)], 3);
  source.transaction([row(10)]);
  await using opened = await openTestSpool(scratch.newDirectory(), { blockBytes: 400 });
  await appendAll(opened, source.events);
  await opened.writer.flush();
  expect(applyAll(await readAll(opened, CREATED), CREATED).transactions).toEqual(source.committed);
  await using recovered = await openTestSpool(await scratch.crash(opened.directory));
  const again = applyAll(await readAll(recovered, CREATED), CREATED).transactions;
  expect(again).toEqual(source.committed);
});

test('whoever starts anywhere, after any trim and restart, gets exactly what is not applied (trap 15, pain 3)', async () => {
  const share = fc.double({ min: 0, max: 1, noNaN: true });
  await fc.assert(
    fc.asyncProperty(
      anySteps,
      anySteps,
      anySizes,
      fc.tuple(share, share),
      async (first, second, sizes, shares) => {
        const directory = scratch.newDirectory();
        const source = play(first);
        const at = (part: number): Lsn =>
          lsn(source.committed[Math.floor(part * source.committed.length) - 1]?.endLsn ?? CREATED);
        const [flushed = CREATED, applied = CREATED] = shares.toSorted((a, b) => a - b).map(at);
        {
          await using spool = await openTestSpool(directory, sizes);
          await appendAll(spool, source.events);
          await spool.writer.flush();
          await spool.trim(flushed);
          const expected = source.committed.filter(({ endLsn }) => endLsn > applied);
          expect(applyAll(await readAll(spool, applied), applied).transactions).toEqual(expected);
        }
        // The connection went with the process, and the source repeats what was not confirmed.
        source.reconnect(3);
        const repeated = sinceReset(source);
        const before = source.events.length;
        for (const step of second) step(source);
        await using spool = await openTestSpool(directory, sizes);
        await appendAll(spool, [...repeated, ...source.events.slice(before)]);
        await spool.writer.sync();
        await spool.trim(flushed);
        const expected = source.committed.filter(({ endLsn }) => endLsn > applied);
        expect(applyAll(await readAll(spool, applied), applied).transactions).toEqual(expected);
        expect(spool.durableLsn).toBeGreaterThanOrEqual(expected.at(-1)?.endLsn ?? 0n);
      },
    ),
    { numRuns: 60 },
  );
});

test('a stream is read again, block by block, at its commit', async () => {
  const source = play([]);
  source.streamBlock(0, [row(300), row(300), row(300)]);
  source.transaction([row(10)]);
  source.streamBlock(0, [row(300)]);
  source.streamCommit(0);
  await using spool = await openTestSpool(scratch.newDirectory(), {
    segmentBytes: 500,
    blockBytes: 90, // One message each.
  });
  await appendAll(spool, source.events);
  await spool.writer.flush();
  await using reader = spool.reader(CREATED);
  const blocks: SpoolBlock[] = [];
  const starts: SpoolPosition[] = [];
  while (!transcript(blocks.slice(-1)).some((message) => message.startsWith('c'))) {
    const block = await reader.read(deadline());
    blocks.push(block);
    if (messagesOf(block).some((message) => message.toString('latin1', 0, 1) === 'S'))
      starts.push(block.position);
  }
  const rows: string[] = [];
  for (const start of starts) {
    let block = await reader.readAt(start);
    for (;;) {
      const texts = transcript([block]);
      rows.push(...texts.filter((text) => text.startsWith('I')).map((text) => text.slice(9)));
      if (texts.some((text) => text.startsWith('E'))) break;
      block = await reader.readAt(block.next);
    }
  }
  expect(starts).toHaveLength(2);
  expect(rows).toEqual(source.committed.at(-1)?.rows);
});

test('a message far larger than a block is carried whole', async () => {
  const source = play([]);
  source.transaction([row(1), row(5_000_000), row(1)]);
  await using spool = await openTestSpool(scratch.newDirectory(), { segmentBytes: 100_000 });
  await appendAll(spool, source.events);
  await spool.writer.sync();
  expect(applyAll(await readAll(spool, CREATED), CREATED).transactions).toEqual(source.committed);
});

test('durable follows whole transactions and keepalives, never half of one (pain 1)', async () => {
  await using spool = await openTestSpool(scratch.newDirectory());
  const source = play([]);
  source.transaction([row(1)]);
  source.streamBlock(0, [row(1)]);
  await appendAll(spool, source.events);
  expect(await spool.writer.sync()).toBe(source.committed[0]?.endLsn);
  source.keepalive();
  append(spool, source.events.at(-1)!);
  const keepalive = await spool.writer.sync();
  expect(keepalive).toBe(source.committed[0]!.endLsn + 10n);
  expect(spool.durableLsn).toBe(keepalive);
  const begin = Buffer.from(`B${'\0'.repeat(20)}`, 'latin1');
  spool.writer.append(begin, 0, begin.length, 0n);
  expect(await spool.writer.sync()).toBe(keepalive);
});

test('a position that is durable is still known after everything was trimmed (trap 16)', async () => {
  const directory = scratch.newDirectory();
  const source = play([]);
  source.transaction([row(1)]);
  source.keepalive();
  const last = lsn(source.committed[0]!.endLsn);
  for (let opened = 0; opened < 3; opened++) {
    await using spool = await openTestSpool(directory);
    if (opened === 0) await appendAll(spool, source.events);
    await spool.writer.sync();
    await spool.trim(last);
    expect(spool.durableLsn).toBe(last + 10n);
    expect(transcript(await readAll(spool, last)).at(-1)).toBe(
      opened === 0 ? `position ${last + 10n}` : 'reset',
    );
  }
  // A target that has lost what it had reported as flushed must not be followed over the hole.
  await using spool = await openTestSpool(directory);
  expect(() => spool.reader(lsn(last - 1n))).toThrow('begins at');
});

test('a spool that was made anew has no more than it says, also when it is opened again', async () => {
  const directory = scratch.newDirectory();
  const source = play([]);
  source.transaction([row(100)]);
  const start = lsn(CREATED + 1n);
  {
    await using spool = await openTestSpool(directory, { startLsn: start });
    expect(spool.startLsn).toBe(start);
    expect(() => spool.reader(CREATED)).toThrow('begins at');
    await appendAll(spool, source.events);
  }
  await using spool = await openTestSpool(directory);
  expect(spool.startLsn).toBe(start);
  expect(() => spool.reader(CREATED)).toThrow('begins at');
  await using reader = spool.reader(start);
  expect(reader.segment).toBe(1);
});

test('a reader that is behind keeps its segment from being trimmed', async () => {
  const source = play([]);
  for (let i = 0; i < 30; i++) source.transaction([row(100)]);
  await using spool = await openTestSpool(scratch.newDirectory(), {
    segmentBytes: 1000,
    blockBytes: 500,
  });
  await appendAll(spool, source.events);
  await spool.writer.sync();
  const end = lsn(source.committed.at(-1)!.endLsn);
  const reader = spool.reader(CREATED);
  await reader.tryRead();
  const all = spool.bytes;
  await spool.trim(end);
  expect(spool.bytes).toBe(all);
  await reader[Symbol.asyncDispose]();
  await spool.trim(end);
  expect(spool.bytes).toBeLessThan(1500);
});

test('a full spool has no room until it is trimmed, and readers go on meanwhile', async () => {
  const source = play([]);
  for (let i = 0; i < 40; i++) source.transaction([row(100)]);
  const sizes = { segmentBytes: 1000, blockBytes: 500, bytesMax: 3000 };
  await using spool = await openTestSpool(scratch.newDirectory(), sizes);
  await using reader = spool.reader(CREATED);
  let bytesPeak = 0;
  const writing = (async (): Promise<void> => {
    for (const event of source.events) {
      append(spool, event);
      await spool.writer.flush();
      await spool.writer.room(deadline());
    }
  })();
  const blocks: SpoolBlock[] = [];
  let waits = 0;
  while (applyAll(blocks, CREATED).transactions.length < 40) {
    blocks.push(await reader.read(deadline()));
    bytesPeak = Math.max(bytesPeak, spool.bytes);
    if (!spool.writer.isFull) continue;
    waits += 1;
    await spool.trim(blocks.at(-1)!.commitEndLsn);
  }
  await writing;
  expect(waits).toBeGreaterThan(0);
  expect(bytesPeak).toBeLessThan(3000 + 500);
});

test('a wait for more, or for room, ends when it is aborted', async () => {
  await using spool = await openTestSpool(scratch.newDirectory(), { bytesMax: 1 });
  await using reader = spool.reader(CREATED);
  await reader.read(deadline());
  await reader.read(deadline());
  const controller = new AbortController();
  const waits = [reader.read(controller.signal), spool.writer.room(controller.signal)];
  controller.abort(new Error('stopping'));
  for (const result of await Promise.allSettled(waits)) {
    expect(result).toMatchObject({ status: 'rejected', reason: { message: 'stopping' } });
  }
});

test('messages that are not nested as the protocol says are refused', async () => {
  await using spool = await openTestSpool(scratch.newDirectory());
  const commit = Buffer.alloc(26);
  commit.write('C');
  expect(() => spool.writer.append(commit, 0, commit.length, 0n)).toThrow('unexpected Commit');
});

test('the folder and its files are for their owner only (trap 16)', async () => {
  const directory = scratch.newDirectory();
  await using spool = await openTestSpool(directory);
  await spool.writer.sync();
  const paths = [segmentPath(directory, 1), join(directory, 'identity'), join(directory, 'lock')];
  const modes = await Promise.all(
    [directory, ...paths].map(async (path) => (await stat(path)).mode & 0o777),
  );
  expect(modes).toEqual([0o700, 0o600, 0o600, 0o600]);
});

test('a spool of another shadow or server, or none where one must be, is refused', async () => {
  const directory = scratch.newDirectory();
  await expect(openTestSpool(directory, { mode: 'resume' })).rejects.toMatchObject({
    code: 'SPOOL_MISSING',
  });
  await (await openTestSpool(directory))[Symbol.asyncDispose]();
  await (await openTestSpool(directory, { mode: 'resume' }))[Symbol.asyncDispose]();
  for (const [change, code] of [
    [{ systemId: '1' }, 'SOURCE_CHANGED'],
    [{ timeline: 2 }, 'SOURCE_CHANGED'],
    [{ slot: 'other' }, 'SPOOL_MISSING'],
    [{ shadowId: 'other' }, 'SPOOL_MISSING'],
    [{ createdLsn: lsn(1n) }, 'SPOOL_MISSING'],
  ] as const) {
    const identity = { ...IDENTITY, ...change };
    await expect(openTestSpool(directory, { identity })).rejects.toMatchObject({ code });
  }
  const other = scratch.newDirectory();
  await mkdir(other);
  await writeFile(join(other, 'thesis.tex'), 'mine');
  await expect(openTestSpool(other)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});
