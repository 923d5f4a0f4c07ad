import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import * as fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { type Lsn, lsn } from '#src/core/lsn.ts';
import {
  type RowSpec,
  ScriptedSource,
  ScriptedTarget,
  type SourceEvent,
} from '#test/pgoutput-source.ts';

import { segmentPath } from './files.ts';
import type { SpoolBlock } from './format.ts';
import type { SpoolIdentity } from './identity.ts';
import { openSpool, type Spool, type SpoolOptions } from './spool.ts';

const CREATED = lsn(0x1000n);
const identity: SpoolIdentity = {
  shadowId: '0badcafe',
  systemId: '7500000000000000001',
  timeline: 1,
  slot: 'understudy_0badcafe',
  createdLsn: CREATED,
};
const idle = AbortSignal.timeout(60_000);

let scratch: string;
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'spool-'));
});
afterEach(async () => {
  await rm(scratch, { recursive: true });
});

let directories = 0;
function newDirectory(): string {
  return join(scratch, String(++directories));
}

function open(directory: string, options: Partial<SpoolOptions> = {}): Promise<Spool> {
  return openSpool({ directory, identity, mode: 'create', bytesMax: 2 ** 40, ...options });
}

const anyRow: fc.Arbitrary<RowSpec> = fc.record({
  table: fc.nat(2),
  bytes: fc.oneof(fc.nat(20), fc.nat(20), fc.nat(900)),
  subtransaction: fc.nat(2),
});
const anyRows = fc.array(anyRow, { maxLength: 8 });
const cutAfter = fc.option(fc.nat(4), { nil: undefined, freq: 8 });

type Step = (source: ScriptedSource) => void;
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(anyRows, cutAfter).map(
      ([rows, cut]): Step =>
        (source) =>
          source.transaction(rows, cut),
    ),
  },
  {
    weight: 8,
    arbitrary: fc.tuple(fc.nat(3), anyRows, cutAfter).map(
      ([which, rows, cut]): Step =>
        (source) =>
          source.streamBlock(which, rows, cut),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.nat(2).map(
      (which): Step =>
        (source) =>
          source.streamCommit(which),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.nat(2), fc.nat(2)).map(
      ([which, sub]): Step =>
        (source) =>
          source.streamAbort(which, sub),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.nat(2).map(
      (table): Step =>
        (source) =>
          source.alter(table),
    ),
  },
  { weight: 1, arbitrary: fc.constant<Step>((source) => source.keepalive()) },
  {
    weight: 1,
    arbitrary: fc.nat(4).map(
      (again): Step =>
        (source) =>
          source.reconnect(again),
    ),
  },
);
const anySteps = fc.array(anyStep, { maxLength: 40 });
const anySizes = fc.record({
  segmentBytes: fc.integer({ min: 200, max: 6000 }),
  blockBytes: fc.integer({ min: 120, max: 1500 }),
});

function play(steps: readonly Step[], start: bigint = CREATED): ScriptedSource {
  const source = new ScriptedSource(start);
  for (const step of steps) step(source);
  return source;
}

function append(spool: Spool, event: SourceEvent): boolean {
  if (event.type === 'reset') {
    spool.writer.reset();
    return true;
  }
  if (event.type === 'position') return spool.writer.advance(lsn(event.endLsn));
  // Not at the start of its buffer, as in a chunk from a socket.
  const chunk = Buffer.concat([Buffer.from('??'), event.bytes, Buffer.from('?')]);
  const isRoom = spool.writer.append(chunk, 2, chunk.length - 1, event.walStart);
  chunk.fill(0);
  return isRoom;
}

async function appendAll(spool: Spool, events: readonly SourceEvent[]): Promise<void> {
  for (const event of events) if (!append(spool, event)) await spool.writer.room(idle);
}

function messagesOf(block: SpoolBlock): Buffer[] {
  const messages: Buffer[] = [];
  for (let i = 0; i < block.offsets.length; i += 2) {
    messages.push(block.bytes.subarray(block.offsets[i], block.offsets[i + 1]));
  }
  return messages;
}

async function readAll(spool: Spool, applied: Lsn): Promise<SpoolBlock[]> {
  await using reader = spool.reader(applied);
  const blocks: SpoolBlock[] = [];
  for (;;) {
    const block = await reader.tryRead();
    if (!block) return blocks;
    blocks.push(block);
  }
}

/** The stream as the writer got it, as text; without what the spool adds by itself. */
function transcript(blocks: readonly SpoolBlock[]): string[] {
  return blocks.flatMap((block) => {
    if (block.kind === 'messages') return messagesOf(block).map((one) => one.toString('latin1'));
    if (block.kind === 'position') return [`position ${block.endLsn}`];
    return block.kind === 'reset' ? ['reset'] : [];
  });
}

function transcriptOf(events: readonly SourceEvent[]): string[] {
  return events.map((event) => {
    if (event.type === 'message') return event.bytes.toString('latin1');
    return event.type === 'reset' ? 'reset' : `position ${event.endLsn}`;
  });
}

function apply(blocks: readonly SpoolBlock[], applied: Lsn): ScriptedTarget {
  const target = new ScriptedTarget(applied);
  for (const block of blocks) {
    if (block.kind === 'reset') target.reset();
    for (const message of messagesOf(block)) target.message(message);
  }
  return target;
}

test(
  'what is appended is read in the same order, while it is being appended',
  { timeout: 30_000 },
  async () => {
    await fc.assert(
      fc.asyncProperty(anySteps, anySizes, async (steps, sizes) => {
        const { events } = play(steps);
        await using spool = await open(newDirectory(), sizes);
        await using reader = spool.reader(CREATED);
        const expected = ['reset', ...transcriptOf(events)];
        const writing = appendAll(spool, events).then(() => spool.writer.flush());
        const blocks: SpoolBlock[] = [];
        while (transcript(blocks).length < expected.length) blocks.push(await reader.read(idle));
        await writing;
        expect(transcript(blocks)).toEqual(expected);
      }),
      { numRuns: 40 },
    );
  },
);

test(
  'a reader that starts anywhere, after any trim and restart, gets exactly what it has not applied',
  { timeout: 30_000 },
  async () => {
    const share = fc.double({ min: 0, max: 1, noNaN: true });
    await fc.assert(
      fc.asyncProperty(
        anySteps,
        anySteps,
        anySizes,
        fc.tuple(share, share),
        async (first, second, sizes, shares) => {
          const directory = newDirectory();
          const source = play(first);
          const at = (part: number): Lsn =>
            lsn(
              source.committed[Math.floor(part * source.committed.length) - 1]?.endLsn ?? CREATED,
            );
          const [flushed = CREATED, applied = CREATED] = shares
            .map(at)
            .toSorted((a, b) => Number(a - b));
          {
            await using spool = await open(directory, sizes);
            await appendAll(spool, source.events);
            await spool.writer.flush();
            await spool.trim(flushed);
            const expected = source.committed.filter(({ endLsn }) => endLsn > applied);
            expect(apply(await readAll(spool, applied), applied).transactions).toEqual(expected);
          }
          // The connection went with the process: the source starts over.
          source.reconnect(3);
          const before = source.events.length;
          for (const step of second) step(source);
          await using spool = await open(directory, sizes);
          await appendAll(spool, source.events.slice(before - repeatedEvents(source, before)));
          await spool.writer.sync();
          await spool.trim(flushed);
          const expected = source.committed.filter(({ endLsn }) => endLsn > applied);
          expect(apply(await readAll(spool, applied), applied).transactions).toEqual(expected);
          expect(spool.durableLsn >= (expected.at(-1)?.endLsn ?? 0n)).toBe(true);
        },
      ),
      { numRuns: 40 },
    );
  },
);

/** How many of the events before `end` belong to the last connection. */
function repeatedEvents(source: ScriptedSource, end: number): number {
  return end - 1 - source.events.slice(0, end).findLastIndex((event) => event.type === 'reset');
}

test('the folder and its files are for their owner only', async () => {
  const directory = newDirectory();
  await using spool = await open(directory);
  await spool.writer.sync();
  const modes = [
    directory,
    segmentPath(directory, 1),
    join(directory, 'identity'),
    join(directory, 'lock'),
  ];
  const found = await Promise.all(modes.map(async (path) => (await stat(path)).mode & 0o777));
  expect(found).toEqual([0o700, 0o600, 0o600, 0o600]);
});
