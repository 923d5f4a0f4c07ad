import { execFile } from 'node:child_process';
import { open, readFile, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, expect, test, vi } from 'vitest';

import {
  append,
  appendAll,
  applyAll,
  CREATED,
  createScratch,
  deadline,
  openTestSpool,
  play,
  readAll,
} from '#test/spool.ts';

import type { OpenFile } from './files.ts';

// Most of the time goes into fsync, and a shared disk can be slow.
vi.setConfig({ testTimeout: 30_000 });

const scratch = await createScratch();
afterAll(() => scratch[Symbol.asyncDispose]());

const CHILD = new URL('../../../test/spool-child.ts', import.meta.url).pathname;

function errno(code: string): Error {
  return Object.assign(new Error(code), { code });
}

/** A disk that takes `bytesLeft` more bytes, half a block too if need be, and counts its syncs. */
class TestDisk {
  bytesLeft = Number.POSITIVE_INFINITY;
  failSync: string | undefined;
  syncs = 0;

  readonly openFile: OpenFile = async (path, flags, mode) => {
    const handle = await open(path, flags, mode);
    if (this.bytesLeft <= 0) {
      await handle.close();
      throw errno('ENOSPC');
    }
    const write = handle.write.bind(handle);
    const datasync = handle.datasync.bind(handle);
    return Object.assign(handle, {
      write: async (buffer: Buffer, offset: number, length: number, position: number) => {
        if (this.bytesLeft <= 0) throw errno('ENOSPC');
        const part = Math.min(length, this.bytesLeft);
        this.bytesLeft -= part;
        return write(buffer, offset, part, position);
      },
      datasync: async () => {
        this.syncs += 1;
        if (this.failSync !== undefined) throw errno(this.failSync);
        await datasync();
      },
    }) satisfies FileHandle;
  };
}

const row = { table: 0, bytes: 100, subtransaction: 0 };

test('a full disk is SPOOL_FULL, leaves nothing torn, and once there is space nothing is missing', async () => {
  const source = play([]);
  for (let i = 0; i < 60; i++) source.transaction([row, row]);
  for (const bytesLeft of [1, 71, 500, 2503]) {
    const disk = new TestDisk();
    await using spool = await openTestSpool(scratch.newDirectory(), {
      openFile: disk.openFile,
      segmentBytes: 1500,
      blockBytes: 400,
      queueBytesMax: 2000,
    });
    disk.bytesLeft = bytesLeft;
    let refusals = 0;
    for (const event of source.events) {
      if (append(spool, event)) continue;
      for (;;) {
        const error: unknown = await spool.writer
          .room(deadline())
          .catch((reason: unknown) => reason);
        if (error === undefined) break;
        expect(error).toMatchObject({ code: 'SPOOL_FULL', detail: { errno: 'ENOSPC' } });
        await expect(spool.writer.sync()).rejects.toMatchObject({ code: 'SPOOL_FULL' });
        // A crash now finds whole blocks only, and what was written can be read meanwhile.
        const before = applyAll(await readAll(spool, CREATED), CREATED).transactions;
        await using crashed = await openTestSpool(await scratch.crash(spool.directory));
        expect(applyAll(await readAll(crashed, CREATED), CREATED).transactions).toEqual(before);
        refusals += 1;
        if (refusals % 2 === 0) disk.bytesLeft = 7001;
      }
    }
    disk.bytesLeft = Number.POSITIVE_INFINITY;
    await spool.writer.sync();
    expect(refusals).toBeGreaterThan(0);
    expect(applyAll(await readAll(spool, CREATED), CREATED).transactions).toEqual(source.committed);
  }
});

test('a file size limit of the operating system is SPOOL_FULL as well', async () => {
  const directory = scratch.newDirectory();
  // In blocks of 512 bytes: less than a segment of the child.
  const { stdout } = await promisify(execFile)('sh', [
    '-c',
    'ulimit -f 30 && exec "$0" "$1" "$2"',
    process.execPath,
    CHILD,
    directory,
  ]);
  const lines = stdout.trim().split('\n');
  expect(lines.at(-1)).toBe('SPOOL_FULL');
  await using spool = await openTestSpool(directory);
  const { transactions } = applyAll(await readAll(spool, CREATED), CREATED);
  expect(transactions.length).toBeGreaterThanOrEqual(Number(lines.at(-2) ?? 0));
});

test('after a failed fdatasync nothing more is confirmed or written, and the rest is thrown away', async () => {
  const source = play([]);
  source.transaction([row]);
  const first = source.events.length;
  source.transaction([row]);
  const disk = new TestDisk();
  await using spool = await openTestSpool(scratch.newDirectory(), { openFile: disk.openFile });
  await appendAll(spool, source.events.slice(0, first));
  const durable = await spool.writer.sync();
  disk.failSync = 'EIO';
  await appendAll(spool, source.events.slice(first));
  await expect(spool.writer.sync()).rejects.toMatchObject({
    code: 'SPOOL_UNUSABLE',
    detail: { errno: 'EIO' },
  });
  disk.failSync = undefined;
  await expect(spool.writer.sync()).rejects.toMatchObject({ code: 'SPOOL_UNUSABLE' });
  await expect(spool.writer.room(deadline())).rejects.toMatchObject({ code: 'SPOOL_UNUSABLE' });
  await expect(readAll(spool, CREATED)).rejects.toMatchObject({ code: 'SPOOL_UNUSABLE' });
  expect(spool.durableLsn).toBe(durable);
  await using reopened = await openTestSpool(await scratch.crash(spool.directory));
  expect(reopened.durableLsn).toBe(durable);
  expect(applyAll(await readAll(reopened, CREATED), CREATED).transactions).toEqual(
    source.committed.slice(0, 1),
  );
});

test('many who wait for durability share few syncs (pain 15)', async () => {
  const disk = new TestDisk();
  await using spool = await openTestSpool(scratch.newDirectory(), { openFile: disk.openFile });
  const source = play([]);
  const before = disk.syncs;
  const waits: Promise<bigint>[] = [];
  for (let i = 0; i < 100; i++) {
    const from = source.events.length;
    source.transaction([row]);
    await appendAll(spool, source.events.slice(from));
    waits.push(spool.writer.sync());
  }
  const durable = await Promise.all(waits);
  expect(disk.syncs - before).toBeLessThanOrEqual(2);
  expect(durable.every((position, i) => position >= source.committed[i]!.endLsn)).toBe(true);
});

test('one process at a time writes a spool; a dead one does not count', async () => {
  const directory = scratch.newDirectory();
  const lock = join(directory, 'lock');
  let held: string;
  {
    await using spool = await openTestSpool(directory);
    await expect(openTestSpool(directory)).rejects.toMatchObject({ code: 'LEASE_HELD' });
    await spool.writer.sync();
    held = await readFile(lock, 'utf8');
  }
  await expect(readFile(lock)).rejects.toMatchObject({ code: 'ENOENT' });
  // No such process; this process's number at another time; half a lock.
  for (const stale of [`999999999 ${held.split(' ')[1]}`, `${process.pid} 1\n`, '']) {
    await writeFile(lock, stale);
    await using spool = await openTestSpool(directory);
    expect(await readFile(lock, 'utf8')).toBe(held);
    await spool.writer.sync();
  }
});
