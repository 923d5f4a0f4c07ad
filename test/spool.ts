import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import * as fc from 'fast-check';

import { type Lsn, lsn } from '#src/core/lsn.ts';
import type { SpoolBlock } from '#src/stream/spool/format.ts';
import type { SpoolIdentity } from '#src/stream/spool/identity.ts';
import { openSpool, type Spool, type SpoolOptions } from '#src/stream/spool/spool.ts';

import {
  type RowSpec,
  ScriptedSource,
  ScriptedTarget,
  type SourceEvent,
} from './pgoutput-source.ts';

export const CREATED = lsn(0x1000n);
export const IDENTITY: SpoolIdentity = {
  shadowId: '0badcafe',
  systemId: '7500000000000000001',
  timeline: 1,
  slot: 'understudy_0badcafe',
  createdLsn: CREATED,
};

/** For waits that end by themselves unless something is wrong. */
export const deadline = (): AbortSignal => AbortSignal.timeout(30_000);

/** Folders for spools, removed at the end. */
export type Scratch = AsyncDisposable & {
  readonly newDirectory: () => string;
  /** What a crash would leave now: no handler runs, nothing is flushed. */
  readonly crash: (directory: string) => Promise<string>;
};

export async function createScratch(): Promise<Scratch> {
  const root = await mkdtemp(join(tmpdir(), 'understudy-spool-'));
  let directories = 0;
  const newDirectory = (): string => join(root, String(++directories));
  return {
    newDirectory,
    crash: async (directory) => {
      const copy = newDirectory();
      // This process is alive, so its lock would be believed.
      await cp(directory, copy, { recursive: true, filter: (path) => basename(path) !== 'lock' });
      return copy;
    },
    [Symbol.asyncDispose]: () => rm(root, { recursive: true }),
  };
}

export function openTestSpool(
  directory: string,
  options: Partial<SpoolOptions> = {},
): Promise<Spool> {
  return openSpool({
    directory,
    identity: IDENTITY,
    mode: 'create',
    bytesMax: 2 ** 40,
    ...options,
  });
}

/** One thing that the source does. */
export type Step = (source: ScriptedSource) => void;

const anyRow: fc.Arbitrary<RowSpec> = fc.record({
  table: fc.nat(2),
  bytes: fc.oneof(fc.nat(20), fc.nat(20), fc.nat(900)),
  subtransaction: fc.nat(2),
});
const anyRows = fc.array(anyRow, { maxLength: 8 });
const anyCut = fc.option(fc.nat(4), { nil: undefined, freq: 8 });

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(anyRows, anyCut).map(
      ([rows, cut]): Step =>
        (source) =>
          source.transaction(rows, cut),
    ),
  },
  {
    weight: 8,
    arbitrary: fc.tuple(fc.nat(3), anyRows, anyCut).map(
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
export const anySteps = fc.array(anyStep, { maxLength: 40 });

/** Small ones, so that a short script has many blocks and segments. */
export const anySizes = fc.record({
  segmentBytes: fc.integer({ min: 200, max: 6000 }),
  blockBytes: fc.integer({ min: 120, max: 1500 }),
});

export function play(steps: readonly Step[]): ScriptedSource {
  const source = new ScriptedSource(CREATED);
  for (const step of steps) step(source);
  return source;
}

export function append(spool: Spool, event: SourceEvent): boolean {
  if (event.type === 'reset') return spool.writer.reset();
  if (event.type === 'position') return spool.writer.advance(lsn(event.endLsn));
  // Inside of a larger buffer that is used again at once, as a chunk from a socket is.
  const chunk = Buffer.concat([Buffer.from('??'), event.bytes, Buffer.from('?')]);
  const isRoom = spool.writer.append(chunk, 2, chunk.length - 1, event.walStart);
  chunk.fill(0);
  return isRoom;
}

export async function appendAll(spool: Spool, events: readonly SourceEvent[]): Promise<void> {
  for (const event of events) if (!append(spool, event)) await spool.writer.room(deadline());
}

export function messagesOf(block: SpoolBlock): Buffer[] {
  const messages: Buffer[] = [];
  for (let i = 0; i < block.offsets.length; i += 2) {
    messages.push(block.bytes.subarray(block.offsets[i], block.offsets[i + 1]));
  }
  return messages;
}

/** Everything that is written, for somebody who has applied everything up to `applied`. */
export async function readAll(spool: Spool, applied: Lsn): Promise<SpoolBlock[]> {
  await using reader = spool.reader(applied);
  const blocks: SpoolBlock[] = [];
  for (;;) {
    const block = await reader.tryRead();
    if (!block) return blocks;
    blocks.push(block);
  }
}

/** The stream as the writer got it, as text; without the relations that the spool repeats by itself. */
export function transcript(blocks: readonly SpoolBlock[]): string[] {
  return blocks.flatMap((block) => {
    if (block.kind === 'messages') return messagesOf(block).map((one) => one.toString('latin1'));
    if (block.kind === 'position') return [`position ${block.endLsn}`];
    return block.kind === 'reset' ? ['reset'] : [];
  });
}

export function transcriptOf(events: readonly SourceEvent[]): string[] {
  return events.map((event) => {
    if (event.type === 'message') return event.bytes.toString('latin1');
    return event.type === 'reset' ? 'reset' : `position ${event.endLsn}`;
  });
}

/** For blocks that were read after everything was written. */
export function applyAll(blocks: readonly SpoolBlock[], applied: Lsn): ScriptedTarget {
  const target = new ScriptedTarget(applied, 'spooled');
  for (const block of blocks) {
    if (block.kind === 'reset') target.reset();
    for (const message of messagesOf(block)) target.message(message);
  }
  return target;
}
