import * as fc from 'fast-check';
import { afterAll, expect, test, vi } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import type { Spool } from '#src/stream/spool/spool.ts';
import { BACKEND } from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import { readRowTuples, TAG } from '#src/wire/postgres/pgoutput.ts';
import {
  decodeKeepalive,
  decodeXLogDataHeader,
  KEEPALIVE,
  XLOG_DATA_HEADER_BYTES,
} from '#src/wire/postgres/replication-message.ts';
import { type WorldEvent, WorldSource } from '#test/apply-world.ts';
import { logicalMessage } from '#test/pgoutput-encoder.ts';
import { anySizes, CREATED, createScratch, openTestSpool, readAll } from '#test/spool.ts';
import { decodeTuple, TableModel } from '#test/table-model.ts';

import { TransactionReader } from './transaction-reader.ts';

// Most of the time goes into fsync, and a shared disk can be slow.
vi.setConfig({ testTimeout: 60_000 });

const scratch = await createScratch();
afterAll(() => scratch[Symbol.asyncDispose]());

/** As the source sends it: XLogData or a keepalive, inside of CopyData. */
function frameOf(event: Exclude<WorldEvent, { type: 'reset' }>): Buffer {
  const header = Buffer.alloc(event.type === 'message' ? XLOG_DATA_HEADER_BYTES : 18);
  header.write(event.type === 'message' ? 'w' : 'k', 'latin1');
  header.writeBigUInt64BE(event.type === 'message' ? event.walStart : event.endLsn, 1);
  const body = event.type === 'message' ? Buffer.concat([header, event.bytes]) : header;
  const frame = Buffer.alloc(5);
  frame.writeUInt8(BACKEND.copyData);
  frame.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([frame, body]);
}

/** The chunks of one connection, cut anywhere. */
function chunksOf(bytes: Buffer, cuts: readonly number[]): readonly Buffer[] {
  const edges = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].toSorted(
    (a, b) => a - b,
  );
  return edges.map((edge, i) => Buffer.from(bytes.subarray(edges[i - 1] ?? 0, edge)));
}

/** What the receiver does with the chunks of a connection. */
async function receive(spool: Spool, chunks: readonly Buffer[]): Promise<void> {
  const walker = new FrameWalker();
  for (const chunk of chunks) {
    walker.feed(chunk);
    while (walker.next()) {
      const { buffer, start, end } = walker;
      if (buffer[start] === KEEPALIVE) {
        spool.writer.advance(decodeKeepalive(walker).serverEndLsn);
      } else {
        const { startLsn } = decodeXLogDataHeader(walker);
        spool.writer.append(buffer, start + XLOG_DATA_HEADER_BYTES, end, startLsn);
      }
    }
    await spool.writer.flush();
    // The memory of a chunk is used again.
    chunk.fill(0xff);
  }
}

/** The table after each transaction, by the end of its commit. */
async function statesOf(spool: Spool): Promise<readonly (readonly [bigint, readonly string[]])[]> {
  const model = new TableModel([0]);
  const states: [bigint, readonly string[]][] = [];
  let endLsn: bigint = CREATED;
  await using again = spool.reader(CREATED);
  const reader = new TransactionReader(again, {
    begin: async (commitLsn) => commitLsn >= endLsn,
    block: () => undefined,
    relation: () => undefined,
    content: ({ tag, bytes, body }) => {
      if (tag === TAG.message) return;
      const { before, after } = readRowTuples(tag, bytes, body);
      const row = decodeTuple(bytes, after < 0 ? before : after);
      if (tag === TAG.insert) model.insert(row);
      else if (tag === TAG.delete) model.delete(row);
      else model.update(row, row);
    },
    isFull: false,
    drain: async () => undefined,
    commit: async (point) => {
      endLsn = point.endLsn;
      states.push([endLsn, model.sorted()]);
    },
  });
  const { signal } = new AbortController();
  for (const block of await readAll(spool, CREATED)) {
    if (block.kind === 'reset') reader.reset();
    if (block.kind === 'messages') await reader.messages(block, signal);
  }
  return states;
}

type Step = (source: WorldSource) => void;
const size = fc.oneof(fc.nat(6), fc.constant(60));
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(size, fc.option(fc.nat(6), { nil: undefined, freq: 6 })).map(
    ([changes, cut]): Step =>
      (source) =>
        source.transaction(changes, cut),
  ),
  fc.tuple(fc.nat(3), size, fc.nat(2)).map(
    ([which, changes, sub]): Step =>
      (source) =>
        source.streamBlock(which, changes, sub),
  ),
  fc.nat(2).map(
    (which): Step =>
      (source) =>
        source.streamCommit(which),
  ),
  fc.tuple(fc.nat(2), fc.nat(2)).map(
    ([which, sub]): Step =>
      (source) =>
        source.streamAbort(which, sub),
  ),
  fc.nat(3).map(
    (again): Step =>
      (source) =>
        source.reconnect(again),
  ),
  fc.constant<Step>((source) => source.position()),
  fc.constant<Step>((source) => source.message()),
);

/** Messages of no byte and of many more than a block, between transactions. */
const ODD_MESSAGES = ['', 'x'.repeat(20_000)].map((content): WorldEvent => ({
  type: 'message',
  bytes: logicalMessage({ isTransactional: false, prefix: 'other', content }),
  walStart: 0n,
}));

test('a stream means the same wherever its bytes are cut, by the network and into blocks (trap 17)', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(anyStep, { minLength: 5, maxLength: 40 }),
      fc.array(fc.nat(), { maxLength: 60 }),
      anySizes,
      async (steps, cuts, sizes) => {
        const source = new WorldSource(CREATED);
        for (const step of steps) step(source);
        await using spool = await openTestSpool(scratch.newDirectory(), sizes);
        let connection: Buffer[] = ODD_MESSAGES.map((event) =>
          event.type === 'reset' ? Buffer.alloc(0) : frameOf(event),
        );
        for (const event of source.events) {
          if (event.type !== 'reset') connection.push(frameOf(event));
          else {
            await receive(spool, chunksOf(Buffer.concat(connection), cuts));
            spool.writer.reset();
            connection = [];
          }
        }
        await receive(spool, chunksOf(Buffer.concat(connection), cuts));
        await spool.writer.sync();
        const expected = [...source.states].filter(([endLsn]) => endLsn > CREATED);
        expect(await statesOf(spool)).toEqual(expected);
        expect(spool.durableLsn).toBeGreaterThanOrEqual(lsn(expected.at(-1)?.[0] ?? CREATED));
      },
    ),
    { numRuns: 60, seed: 17 },
  );
});
