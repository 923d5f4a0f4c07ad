import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

import { expect, test, type TestContext } from 'vitest';

import { createTestDatabase } from '#test/postgres.ts';

import { countTransactions, withClient } from './compare.ts';
import { startCrashServer } from './crash-server.ts';
import { CHAOS_SCHEMA } from './schema.ts';
import { createShadow, endOf, errorOf, FOLLOWING, settle, until, verify } from './shadow.ts';
import { createTinyDisk, ownFolder, type TinyDisk } from './tiny-disk.ts';
import { startWorkload } from './workload.ts';

/* Disks that are really full. Where nobody may mount a small one, the tests say that they were skipped. */

const NO_MOUNT = 'nobody may mount a file system here';

async function requireDisk(context: TestContext, megabytes: number): Promise<TinyDisk> {
  const disk = await createTinyDisk(megabytes);
  return disk ?? context.skip(NO_MOUNT);
}

test(
  'a spool that fills its disk ends the run with SPOOL_FULL, and nothing is lost once there is room',
  { timeout: 180_000 },
  async (context) => {
    await using disk = await requireDisk(context, 64);
    await using source = await createTestDatabase(16, CHAOS_SCHEMA);
    await using target = await createTestDatabase(17);
    await mkdir(join(disk.path, 'spool'));
    await using shadow = await createShadow(source.endpoint, target.endpoint, {
      spool: join(disk.path, 'spool'),
    });
    await using workload = await startWorkload(source.endpoint, 21);
    await using first = shadow.start();
    await first.waitFor(FOLLOWING);
    await disk.fill();
    // What is confirmed stays confirmed, and the source keeps the rest.
    expect(errorOf(await endOf(first))).toBe('SPOOL_FULL');
    await using again = shadow.start();
    expect(errorOf(await endOf(again))).toBe('SPOOL_FULL');
    await disk.free();
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test(
  'a target whose disk is full (53100) is waited for, and exact once there is room',
  { timeout: 180_000 },
  async (context) => {
    await using disk = await requireDisk(context, 96);
    const tablespace = await ownFolder(join(disk.path, 'tablespace'));
    await using source = await createTestDatabase(16, CHAOS_SCHEMA);
    await using target = await startCrashServer(18, 'shadow', '', tablespace);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using workload = await startWorkload(source.endpoint, 22);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await disk.fill();
    await withClient(source.endpoint, async (client) =>
      client.query(
        `INSERT INTO app.bulk SELECT -1000000 - i, 0, 'zqrow' || repeat(md5(i::text), 8) FROM generate_series(1, 20000) i`,
      ),
    );
    // The spool takes what the target cannot.
    await until('the target stands while the source goes on', async () => {
      const before = await countTransactions(target.endpoint);
      const committed = workload.committed();
      await until('more is committed', async () => workload.committed() > committed + 50);
      return (await countTransactions(target.endpoint)) === before;
    });
    expect(clone.hasEnded()).toBe(false);
    await disk.free();
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);
