/**
 * A process that writes a spool until it is killed or the disk is full, for tests of both. It prints
 * the number of rows that are durable, a line each time, and at last the code of an error.
 *
 *   node test/spool-child.ts FOLDER
 */
import { OperatorError } from '#src/lib/errors.ts';

import { appendAll, openTestSpool, play } from './spool.ts';

const directory = process.argv[2] ?? '';
const source = play([]);
let sent = 0;
try {
  await using spool = await openTestSpool(directory, { segmentBytes: 20_000, blockBytes: 3000 });
  for (let rows = 1; rows < 100_000; rows++) {
    source.transaction([{ table: rows % 3, bytes: rows % 700, subtransaction: 0 }]);
    await appendAll(spool, source.events.slice(sent));
    sent = source.events.length;
    if (rows % 3 === 0) await spool.writer.flush();
    if (rows % 7 !== 0) continue;
    await spool.writer.sync();
    process.stdout.write(`${rows}\n`);
  }
} catch (error) {
  process.stdout.write(`${error instanceof OperatorError ? error.code : String(error)}\n`);
}
