import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import { systemClock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import type { Spool } from '#src/stream/spool/spool.ts';
import { TABLE_OID, type WorldEvent, WorldSource, WorldTarget } from '#test/apply-world.ts';
import { type TestTable, testFollowedTable } from '#test/followed-table.ts';
import {
  beginMessage,
  commitMessage,
  insertMessage,
  relationMessage,
  streamAbortMessage,
  streamCommitMessage,
  streamStartMessage,
  streamStopMessage,
  tuple,
} from '#test/pgoutput-encoder.ts';
import { CREATED, createScratch, openTestSpool } from '#test/spool.ts';

import { ApplyGate } from './apply-gate.ts';
import type { Applied } from './apply-group.ts';
import { ApplyLoop } from './apply-loop.ts';
import type { FollowedTable } from './followed-table.ts';
import { FollowedTables } from './followed-tables.ts';
import { messageHandlers } from './logical-messages.ts';

const TEXT = 25;
const TABLE: TestTable = { oid: TABLE_OID, columns: { id: TEXT, value: TEXT }, key: ['id'] };
const DEADLINE_MS = 20_000;

async function write(spool: Spool, event: WorldEvent): Promise<void> {
  const { writer } = spool;
  if (event.type === 'reset') writer.reset();
  else if (event.type === 'position') writer.advance(lsn(event.endLsn));
  else writer.append(event.bytes, 0, event.bytes.length, event.walStart);
}

const messageEvent = (bytes: Buffer): WorldEvent => ({ type: 'message', bytes, walStart: 0n });

type World = {
  readonly spool: Spool;
  readonly target: WorldTarget;
  readonly gate: ApplyGate;
  readonly tables?: readonly FollowedTable[];
  readonly onApplied?: (applied: Applied) => void;
};

/** One attempt of the loop, from the target's progress. */
async function attempt(world: World, signal: AbortSignal): Promise<void> {
  const { spool, target, gate } = world;
  const applied = lsn(target.appliedLsn);
  await using reader = spool.reader(applied);
  const tables = world.tables ?? [testFollowedTable(TABLE)];
  const loop = new ApplyLoop(
    {
      shadowId: '0badcafe',
      session: target,
      reader,
      tables: new FollowedTables(new Map(tables.map((table) => [table.oid, table]))),
      messages: messageHandlers('0badcafe'),
      gate,
      clock: systemClock,
      failpoints: createFailpoints(undefined),
      onApplied: world.onApplied ?? (() => undefined),
    },
    applied,
  );
  await loop.run(signal);
}

/** Apply everything, again after each lost connection, until the gate is reached. */
async function applyUntil(world: World, endLsn: bigint): Promise<void> {
  const over = new AbortController();
  const either = AbortSignal.any([over.signal, AbortSignal.timeout(DEADLINE_MS)]);
  const standing = world.gate.close({ kind: 'until', lsn: lsn(endLsn) }).then(() => over.abort());
  try {
    for (;;) {
      try {
        await attempt(world, either);
      } catch (error) {
        if (over.signal.aborted) break;
        if (!(error instanceof OperatorError) || error.code !== 'CONNECTION_LOST') throw error;
      }
    }
  } finally {
    world.gate.open();
    await standing.catch(() => undefined);
  }
}

type Step = (source: WorldSource) => void;
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(fc.nat(6), fc.option(fc.nat(6), { nil: undefined, freq: 6 })).map(
      ([changes, cut]): Step =>
        (source) =>
          source.transaction(changes, cut),
    ),
  },
  {
    weight: 8,
    arbitrary: fc.tuple(fc.nat(3), fc.nat(6), fc.nat(2)).map(
      ([which, changes, sub]): Step =>
        (source) =>
          source.streamBlock(which, changes, sub),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.nat(2).map(
      (which): Step =>
        (source) =>
          source.streamCommit(which),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.nat(2), fc.nat(2)).map(
      ([which, sub]): Step =>
        (source) =>
          source.streamAbort(which, sub),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.nat(3).map(
      (again): Step =>
        (source) =>
          source.reconnect(again),
    ),
  },
  { weight: 1, arbitrary: fc.constant<Step>((source) => source.position()) },
  { weight: 1, arbitrary: fc.constant<Step>((source) => source.message()) },
);

test('every commit on the target is a state of the source, and the last one is its last', async () => {
  await using scratch = await createScratch();
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 30 }),
      fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
      fc.record({ failAfter: fc.nat(12), isAfterEffect: fc.boolean(), isLate: fc.boolean() }),
      async (steps, flushes, fault) => {
        const source = new WorldSource(CREATED);
        for (const one of steps) one(source);
        // What ends the fence: a transaction behind everything.
        const endLsn = source.lsn + 1n;
        source.transaction(0);

        await using spool = await openTestSpool(scratch.newDirectory(), {
          blockBytes: 400,
          segmentBytes: 2000,
        });
        const target = new WorldTarget(CREATED);
        target.failAfter = fault.failAfter;
        target.isLostAfterEffect = fault.isAfterEffect;
        const writing = async (): Promise<void> => {
          for (const [i, event] of source.events.entries()) {
            await write(spool, event);
            if (flushes[i % flushes.length]!) await spool.writer.flush();
          }
          await spool.writer.flush();
        };
        if (fault.isLate) await writing();
        const world = { spool, target, gate: new ApplyGate() };
        await Promise.all([applyUntil(world, endLsn), fault.isLate ? undefined : writing()]);

        const ends = [...source.states.keys()].filter((end) => end < endLsn);
        expect(target.appliedLsn).toBe(ends.at(-1));
        for (const { endLsn: at, rows } of target.commits) {
          expect(rows).toEqual(source.states.get(at));
        }
        const positions = target.commits.map(({ endLsn: at }) => at);
        expect(positions).toEqual([...new Set(positions)].toSorted((a, b) => (a < b ? -1 : 1)));
      },
    ),
    { numRuns: 150 },
  );
});

describe('a large transaction', () => {
  test.each(['streamed', 'not streamed'])(
    'that is %s is applied in parts, and committed once',
    async (kind) => {
      await using scratch = await createScratch();
      await using spool = await openTestSpool(scratch.newDirectory());
      const source = new WorldSource(CREATED);
      if (kind === 'streamed') {
        for (let i = 0; i < 10; i++) source.streamBlock(0, 3_000, i % 3);
        source.streamAbort(0, 2);
        source.streamCommit(0);
      } else {
        source.transaction(25_000);
      }
      const endLsn = source.lsn + 1n;
      source.transaction(0);
      for (const event of source.events) await write(spool, event);
      await spool.writer.flush();
      const target = new WorldTarget(CREATED);
      await applyUntil({ spool, target, gate: new ApplyGate() }, endLsn);
      expect(target.applies).toBeGreaterThanOrEqual(2);
      expect(target.commits).toHaveLength(1);
      expect(target.commits[0]?.rows).toEqual(source.states.get(target.appliedLsn));
    },
  );
});

/** A spool with these messages, and an attempt of the loop at it that must fail. */
async function failureOf(
  messages: readonly Buffer[],
  table: TestTable = TABLE,
  target = new WorldTarget(CREATED),
): Promise<unknown> {
  await using scratch = await createScratch();
  await using spool = await openTestSpool(scratch.newDirectory());
  for (const bytes of messages) await write(spool, messageEvent(bytes));
  await spool.writer.flush();
  const world = { spool, target, gate: new ApplyGate(), tables: [testFollowedTable(table)] };
  const over = new AbortController();
  const standing = world.gate.close({ kind: 'until', lsn: lsn(2n ** 40n) });
  standing.then(
    () => over.abort(),
    () => undefined,
  );
  const signal = AbortSignal.any([over.signal, AbortSignal.timeout(DEADLINE_MS)]);
  return await attempt(world, signal).catch((error: unknown) => error);
}

const shape = (xid?: number, more: readonly { name: string; typeOid: number }[] = []): Buffer =>
  relationMessage(
    {
      oid: TABLE_OID,
      schema: 'public',
      name: `t${TABLE_OID}`,
      columns: [
        { name: 'id', typeOid: TEXT, isKey: true },
        { name: 'value', typeOid: TEXT },
        ...more,
      ],
    },
    xid,
  );
const MORE = [{ name: 'extra', typeOid: TEXT }];
const END = [beginMessage(2n ** 40n), commitMessage(2n ** 40n, 2n ** 40n + 10n)];
const transaction = (at: bigint, ...changes: Buffer[]): Buffer[] => [
  beginMessage(at),
  ...changes,
  commitMessage(at, at + 10n),
];
const row = (id: string, xid?: number): Buffer => insertMessage(TABLE_OID, tuple([id, 'v']), xid);

describe('a table with another shape', () => {
  test('stops at its next change, not before', async () => {
    const messages = [
      ...transaction(0x2000n, shape(), row('1')),
      ...transaction(0x3000n, shape(undefined, MORE)),
      ...transaction(0x4000n, row('2')),
    ];
    expect(await failureOf([...messages, ...END])).toMatchObject({
      code: 'TABLE_CHANGED',
      detail: { relation: TABLE_OID },
    });
    const undone = [...messages.slice(0, -3), ...transaction(0x4000n, shape(), row('2'))];
    expect(await failureOf([...undone, ...END])).toMatchObject({ name: 'AbortError' });
  });

  test('is not stopped before it is known what became of the commit under way', async () => {
    const rows = Array.from({ length: 10_000 }, (_, i) => row(`${i}`));
    const messages = [
      ...transaction(0x2000n, shape(), ...rows),
      ...transaction(0x3000n, shape(undefined, MORE), row('x')),
    ];
    const target = new WorldTarget(CREATED);
    Object.assign(target, { failAfter: 1, isLostAfterEffect: true });
    expect(await failureOf([...messages, ...END], TABLE, target)).toMatchObject({
      code: 'CONNECTION_LOST',
    });
    expect(target.commits).toHaveLength(1);
  });

  test('that was rolled back to a savepoint goes on', async () => {
    const xid = 800;
    const messages = [
      streamStartMessage(xid, true),
      shape(xid),
      row('1', xid),
      shape(xid + 1, MORE),
      insertMessage(TABLE_OID, tuple(['2', 'v', 'w']), xid + 1),
      streamStopMessage(),
      streamAbortMessage(xid, xid + 1),
      streamStartMessage(xid, false),
      shape(xid),
      row('3', xid),
      streamStopMessage(),
      streamCommitMessage(xid, 0x2000n, 0x2010n),
    ];
    expect(await failureOf([...messages, ...END])).toMatchObject({ name: 'AbortError' });
  });

  test('that was copied later is not looked at before', async () => {
    const messages = [
      ...transaction(0x2000n, shape(undefined, MORE), row('1')),
      ...transaction(0x3000n, shape(), row('1')),
    ];
    const table = { ...TABLE, startLsn: lsn(0x3000n) };
    expect(await failureOf([...messages, ...END], table)).toMatchObject({ name: 'AbortError' });
  });
});

describe('what cannot be', () => {
  test('a stream whose beginning was not read loses nothing in silence', async () => {
    const messages = [
      streamStartMessage(800, false),
      row('1', 800),
      streamStopMessage(),
      streamCommitMessage(800, 0x2000n, 0x2010n),
    ];
    expect(await failureOf(messages)).toMatchObject({ code: 'PROTOCOL_VIOLATION' });
  });

  test('a relation that is not of the shadow stops everything', async () => {
    const messages = transaction(0x2000n, insertMessage(99, tuple(['1'])));
    expect(await failureOf(messages)).toMatchObject({ code: 'PUBLICATION_CHANGED' });
  });
});

test('an abort ends the loop at once, also while the gate is closed', async () => {
  await using scratch = await createScratch();
  await using spool = await openTestSpool(scratch.newDirectory());
  const gate = new ApplyGate();
  const world = { spool, target: new WorldTarget(CREATED), gate };
  for (const isClosed of [false, true]) {
    const over = new AbortController();
    const running = attempt(world, over.signal);
    if (isClosed) await gate.close({ kind: 'now' });
    over.abort();
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
  }
});
