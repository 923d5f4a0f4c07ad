/**
 * How fast the spool takes and gives: append, sync and read at once. MB/s of messages.
 *
 *   node bench/spool.ts [megabytes] [message bytes] [folder]
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lsn } from '#src/core/lsn.ts';
import { openSpool } from '#src/stream/spool/spool.ts';

const megabytes = Number(process.argv[2] ?? 1000);
const messageBytes = Number(process.argv[3] ?? 120);
const ROWS_PER_TRANSACTION = 10;
const TRANSACTIONS_PER_CHUNK = 50;

const parent = process.argv[4] ?? tmpdir();
const directory = await mkdtemp(join(parent, 'spool-bench-'));
const identity = {
  shadowId: '00000000',
  systemId: '1',
  timeline: 1,
  slot: 's',
  createdLsn: lsn(1n),
};

const row = Buffer.alloc(messageBytes, 'x');
row.write('I');
const begin = Buffer.alloc(21);
begin.write('B');
const commit = Buffer.alloc(26);
commit.write('C');
const chunk = Buffer.concat([begin, row, commit]);

const rounds = Math.ceil(
  (megabytes * 1e6) / (messageBytes * ROWS_PER_TRANSACTION * TRANSACTIONS_PER_CHUNK),
);
let bytes = 0;
let messages = 0;
const usage = process.cpuUsage();
const started = performance.now();
{
  await using spool = await openSpool({ directory, identity, mode: 'create', bytesMax: 2 ** 40 });
  const { writer } = spool;
  const signal = new AbortController().signal;
  const expected = rounds * TRANSACTIONS_PER_CHUNK * (ROWS_PER_TRANSACTION + 2);
  const reading = (async (): Promise<void> => {
    await using reader = spool.reader(lsn(1n));
    while (messages < expected) {
      const block = await reader.read(signal);
      for (let i = 0; i < block.offsets.length; i += 2) {
        bytes += (block.offsets[i + 1] ?? 0) - (block.offsets[i] ?? 0);
      }
      if (block.kind === 'messages') messages += block.count;
      if (block.position.offset === 0) await spool.trim(block.endLsn);
    }
  })();
  let position = 1n;
  for (let round = 0; round < rounds; round++) {
    let isRoom = true;
    for (let i = 0; i < TRANSACTIONS_PER_CHUNK; i++) {
      position += 100n;
      chunk.writeBigUInt64BE(position, begin.length + row.length + 10);
      writer.append(chunk, 0, begin.length, position);
      for (let r = 0; r < ROWS_PER_TRANSACTION; r++) {
        writer.append(chunk, begin.length, begin.length + row.length, position);
      }
      isRoom = writer.append(chunk, begin.length + row.length, chunk.length, position);
    }
    if (!isRoom) await writer.room(signal);
  }
  await writer.sync();
  await reading;
}
const seconds = (performance.now() - started) / 1000;
const { user, system } = process.cpuUsage(usage);
console.log(
  `${(bytes / 1e6 / seconds).toFixed(0)} MB/s, ${(messages / seconds / 1e6).toFixed(2)} M messages/s, ` +
    `CPU ${((user + system) / 1e6).toFixed(1)} s of ${seconds.toFixed(1)} s, ` +
    `peak ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MB`,
);
await rm(directory, { recursive: true });
