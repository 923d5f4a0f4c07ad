import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';

import * as fc from 'fast-check';
import { afterAll, expect, test, vi } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { type SentTransaction, type SourceEvent, ScriptedTarget } from '#test/pgoutput-source.ts';
import {
  anySizes,
  anySteps,
  append,
  appendAll,
  applyAll,
  CREATED,
  createScratch,
  openTestSpool,
  play,
  readAll,
} from '#test/spool.ts';

import { listSegments, segmentPath } from './files.ts';
import { HEADER_BYTES } from './format.ts';
import { Spool } from './spool.ts';

// Most of the time goes into fsync, and a shared disk can be slow.
vi.setConfig({ testTimeout: 30_000 });

const scratch = await createScratch();
afterAll(() => scratch[Symbol.asyncDispose]());

const CHILD = new URL('../../../test/spool-child.ts', import.meta.url).pathname;
const row = (bytes: number): { table: number; bytes: number; subtransaction: number } => ({
  table: 0,
  bytes,
  subtransaction: 0,
});

async function lastSegment(
  directory: string,
): Promise<{ segment: number; path: string; bytes: number }> {
  const segment = (await listSegments(directory)).at(-1) ?? 0;
  const path = segmentPath(directory, segment);
  return { segment, path, bytes: (await stat(path)).size };
}

/** What somebody must end up with who saw these events. */
function applyEvents(events: readonly SourceEvent[]): readonly SentTransaction[] {
  const target = new ScriptedTarget(CREATED, 'source');
  for (const event of events) {
    if (event.type === 'reset') target.reset();
    if (event.type === 'message') target.message(event.bytes);
  }
  return target.transactions;
}

/** What a power cut makes of a file behind what was synced. */
type Damage =
  | { readonly kind: 'cut' }
  | { readonly kind: 'garbage'; readonly bytes: Uint8Array }
  | { readonly kind: 'hole'; readonly length: number };

const anyDamage: fc.Arbitrary<Damage> = fc.oneof(
  fc.constant<Damage>({ kind: 'cut' }),
  fc
    .uint8Array({ minLength: 1, maxLength: 200 })
    .map((bytes): Damage => ({ kind: 'garbage', bytes })),
  fc.integer({ min: 1, max: 3000 }).map((length): Damage => ({ kind: 'hole', length })),
);

async function damageFrom(path: string, at: number, damage: Damage): Promise<void> {
  const content = await readFile(path);
  if (damage.kind === 'hole') {
    content.fill(0, at, Math.min(at + damage.length, content.length));
    await writeFile(path, content);
    return;
  }
  const tail = damage.kind === 'garbage' ? damage.bytes : new Uint8Array();
  await writeFile(path, Buffer.concat([content.subarray(0, at), tail]));
}

test('after a crash what was synced is there, nothing is torn, and writing goes on', async () => {
  const share = fc.double({ min: 0, max: 1, noNaN: true });
  await fc.assert(
    fc.asyncProperty(
      anySteps,
      anySizes,
      share,
      share,
      anyDamage,
      async (steps, sizes, syncAt, cutAt, damage) => {
        const { events } = play(steps);
        await using spool = await openTestSpool(scratch.newDirectory(), sizes);
        const directory = spool.directory;
        const synced = Math.floor(syncAt * events.length);
        await appendAll(spool, events.slice(0, synced));
        const confirmed = await spool.writer.sync();
        const durable = await lastSegment(directory);
        await appendAll(spool, events.slice(synced));
        await spool.writer.flush();

        const crashed = await scratch.crash(directory);
        const last = await lastSegment(crashed);
        const from = last.segment === durable.segment ? durable.bytes : 0;
        await damageFrom(last.path, from + Math.floor(cutAt * (last.bytes - from)), damage);

        const whole = applyEvents(events);
        {
          await using reopened = await openTestSpool(crashed, sizes);
          const found = applyAll(await readAll(reopened, CREATED), CREATED).transactions;
          expect(found).toEqual(whole.slice(0, found.length));
          const least = applyEvents(events.slice(0, synced)).length;
          expect(found.length).toBeGreaterThanOrEqual(least);
          expect(reopened.durableLsn).toBeGreaterThanOrEqual(confirmed);
          await appendAll(reopened, events);
          await reopened.writer.flush();
        }
        await using again = await openTestSpool(crashed, sizes);
        expect(applyAll(await readAll(again, CREATED), CREATED).transactions).toEqual(whole);
      },
    ),
    { numRuns: 40 },
  );
});

test('a trim leaves what says how far was confirmed, also while the next segment is not durable (trap 15)', async () => {
  const source = play([]);
  source.transaction([row(900)]);
  source.keepalive();
  const confirmed = source.events.length;
  source.transaction([row(900)]);
  source.transaction([row(1)]);
  await using spool = await openTestSpool(scratch.newDirectory(), { segmentBytes: 1000 });
  await appendAll(spool, source.events.slice(0, confirmed));
  const durable = await spool.writer.sync();
  expect(durable).toBeGreaterThan(source.committed[0]!.endLsn);
  // The first ends the segment, the second begins the next one; both are applied at once.
  await appendAll(spool, source.events.slice(confirmed));
  await spool.writer.flush();
  await spool.trim(lsn(source.committed[2]!.endLsn));
  const crashed = await scratch.crash(spool.directory);
  const last = await lastSegment(crashed);
  expect(last.segment).toBeGreaterThan(1);
  await truncate(last.path, 0);
  await using reopened = await openTestSpool(crashed);
  expect(reopened.durableLsn).toBeGreaterThanOrEqual(durable);
});

test('a file cut anywhere opens with the whole blocks before the cut', async () => {
  const source = play([]);
  source.transaction([row(5), row(60)]);
  source.streamBlock(0, [row(20)]);
  source.streamCommit(0);
  await using spool = await openTestSpool(scratch.newDirectory(), { blockBytes: 200 });
  await appendAll(spool, source.events);
  await spool.writer.flush();
  const all = await readAll(spool, CREATED);
  const cuts = all.flatMap(({ position, next }) => [
    position.offset,
    position.offset + 1,
    position.offset + HEADER_BYTES,
    next.offset - 1,
    next.offset,
  ]);
  for (const at of new Set(cuts)) {
    const crashed = await scratch.crash(spool.directory);
    await truncate(segmentPath(crashed, 1), at);
    await using reopened = await openTestSpool(crashed);
    const last = all.findLast((block) => block.next.offset <= at);
    const committed = source.committed.filter(({ endLsn }) => endLsn <= (last?.commitEndLsn ?? 0n));
    expect(applyAll(await readAll(reopened, CREATED), CREATED).transactions).toEqual(committed);
    // The whole blocks, and the new segment's relations, none here, and reset.
    expect(reopened.bytes).toBe((last?.next.offset ?? 0) + 2 * HEADER_BYTES);
  }
});

test('a bit that flips, or an end that is missing, anywhere: refused, or a prefix of what was appended', async () => {
  const share = fc.double({ min: 0, max: 0.999, noNaN: true });
  const outcomes = { refused: 0, prefix: 0 };
  await fc.assert(
    fc.asyncProperty(
      anySteps,
      anySizes,
      fc.tuple(share, share, share),
      fc.option(fc.nat(7), { nil: undefined }),
      async (steps, sizes, [syncAt, segmentAt, byteAt], bit) => {
        const { events } = play(steps);
        await using spool = await openTestSpool(scratch.newDirectory(), sizes);
        const synced = Math.floor(syncAt * events.length);
        await appendAll(spool, events.slice(0, synced));
        await spool.writer.sync();
        await appendAll(spool, events.slice(synced));
        await spool.writer.flush();
        const crashed = await scratch.crash(spool.directory);
        const segments = await listSegments(crashed);
        const segment = segments[Math.floor(segmentAt * segments.length)] ?? 0;
        const path = segmentPath(crashed, segment);
        const content = await readFile(path);
        const at = Math.floor(byteAt * content.length);
        if (bit === undefined) await truncate(path, at);
        else {
          content[at] = content[at]! ^ (1 << bit);
          await writeFile(path, content);
        }
        const whole = applyEvents(events);
        const opened = await openTestSpool(crashed, sizes).catch((error: unknown) => error);
        if (!(opened instanceof Spool)) {
          outcomes.refused += 1;
          if (!(opened instanceof OperatorError) || opened.code !== 'SPOOL_CORRUPT') throw opened;
          return;
        }
        await using reopened = opened;
        outcomes.prefix += 1;
        const found = applyAll(await readAll(reopened, CREATED), CREATED).transactions;
        expect(found).toEqual(whole.slice(0, found.length));
        // Whoever confirmed more than this looks like it was ahead of the spool, and is refused.
        expect(found.every(({ endLsn }) => endLsn <= reopened.durableLsn)).toBe(true);
        await appendAll(reopened, events);
        await reopened.writer.flush();
        const again = applyAll(await readAll(reopened, CREATED), CREATED).transactions;
        expect(again).toEqual(whole);
      },
    ),
    { numRuns: 60, seed: 49 },
  );
  expect(Math.min(outcomes.refused, outcomes.prefix)).toBeGreaterThan(8);
});

test('a flipped bit in anything that was synced is refused with file and offset', async () => {
  const source = play([]);
  for (let i = 0; i < 6; i++) source.transaction([row(30)]);
  await using spool = await openTestSpool(scratch.newDirectory(), {
    segmentBytes: 900,
    blockBytes: 200,
  });
  for (const event of source.events) {
    append(spool, event);
    await spool.writer.sync();
  }
  const crashed = await scratch.crash(spool.directory);
  const segments = await listSegments(crashed);
  expect(segments.length).toBeGreaterThan(1);
  const blocks = await readAll(spool, CREATED);
  const lastBlock = blocks.at(-1)!.position;
  for (const segment of segments) {
    const path = segmentPath(crashed, segment);
    const content = await readFile(path);
    // The last block has nothing behind it that knows it as durable: the slot's position tells.
    const end = segment === lastBlock.segment ? lastBlock.offset : content.length;
    for (let at = 0; at < end; at += 7) {
      const flipped = Buffer.from(content);
      flipped[at] = content[at]! ^ (1 << (at % 8));
      await writeFile(path, flipped);
      await expect(openTestSpool(crashed)).rejects.toMatchObject({
        code: 'SPOOL_CORRUPT',
        detail: { path, offset: expect.any(Number) },
      });
    }
    await writeFile(path, content);
  }
  await using intact = await openTestSpool(crashed);
  expect(applyAll(await readAll(intact, CREATED), CREATED).transactions).toEqual(source.committed);
});

test('damage that happens while the spool is open is found by the reader', async () => {
  const source = play([]);
  source.transaction([row(30)]);
  await using spool = await openTestSpool(scratch.newDirectory());
  await appendAll(spool, source.events);
  await spool.writer.sync();
  const { path, bytes } = await lastSegment(spool.directory);
  const content = await readFile(path);
  content[bytes - 1] = content[bytes - 1]! ^ 1;
  await writeFile(path, content);
  await expect(readAll(spool, CREATED)).rejects.toMatchObject({
    code: 'SPOOL_CORRUPT',
    detail: { path },
  });
});

test('a missing segment is refused', async () => {
  const source = play([]);
  for (let i = 0; i < 20; i++) source.transaction([row(100)]);
  await using spool = await openTestSpool(scratch.newDirectory(), {
    segmentBytes: 600,
    blockBytes: 300,
  });
  await appendAll(spool, source.events);
  await spool.writer.sync();
  const crashed = await scratch.crash(spool.directory);
  // Emptied, removed, and cut exactly between two blocks.
  const path = segmentPath(crashed, 2);
  const firstBlock = (await readAll(spool, CREATED)).find(
    ({ position }) => position.segment === 2,
  )!;
  await truncate(path, firstBlock.next.offset);
  await expect(openTestSpool(crashed)).rejects.toMatchObject({ code: 'SPOOL_CORRUPT' });
  await truncate(path, 0);
  await expect(openTestSpool(crashed)).rejects.toMatchObject({ code: 'SPOOL_CORRUPT' });
});

test('killed with -9 at any time, everything that was reported durable is there, in order', async () => {
  const directory = scratch.newDirectory();
  for (const lines of [1, 9, 40]) {
    const child = spawn(process.execPath, [CHILD, directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let durable = 0;
    let seen = 0;
    for await (const line of createInterface(child.stdout)) {
      durable = Number(line);
      if (++seen === lines) child.kill('SIGKILL');
    }
    if (child.signalCode === null) await once(child, 'exit');
    expect(child.signalCode).toBe('SIGKILL');
    const crashed = await scratch.crash(directory);
    await using spool = await openTestSpool(crashed);
    const blocks = await readAll(spool, CREATED);
    // Each child starts over, as a source does: count from its reset.
    const own = blocks.slice(
      blocks.findLastIndex((block, i) => block.kind === 'reset' && i < blocks.length - 1),
    );
    const { transactions } = applyAll(own, CREATED);
    expect(transactions.length).toBeGreaterThanOrEqual(durable);
    expect(spool.durableLsn).toBeGreaterThanOrEqual(transactions.at(-1)?.endLsn ?? 0n);
    const labels = transactions.map(({ rows }) => Number(rows[0]?.split(':')[0]));
    expect(labels).toEqual(labels.map((_, index) => index + 1));
  }
});
