import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { withClient } from '#test/chaos/compare.ts';
import { readProcesses } from '#test/chaos/memory.ts';
import type { Shadow } from '#test/chaos/shadow.ts';

/** What is looked at over hours: a figure that grows without an end fills a disk or a memory some day. */
export const FIGURES = [
  // What is left when all garbage is collected: resident memory also shows when that was done last.
  { name: 'heapMb', unit: 'MB', floor: 10 },
  { name: 'memoryMb', unit: 'MB', floor: 20 },
  { name: 'openFiles', unit: 'files', floor: 10 },
  { name: 'spoolMb', unit: 'MB', floor: 32 },
  { name: 'sourceWalMb', unit: 'MB', floor: 48 },
  // Tables of the ledger that hold a fixed number of rows and change all the time: dead rows must go.
  { name: 'positionKb', unit: 'KB', floor: 256 },
  { name: 'requestRows', unit: 'rows', floor: 50 },
  { name: 'connections', unit: 'connections', floor: 4 },
] as const;

type Figure = (typeof FIGURES)[number]['name'];

export type Sample = Readonly<Record<Figure, number>> & {
  /** Not judged: they follow what production does, and how often it is verified. */
  readonly ledgerRows: number;
  readonly ledgerKb: number;
  readonly transactions: number;
};

const MEGABYTE = 2 ** 20;
const ANSWER_MS = 50;
const ANSWER_TRIES = 200;

/** `heaps` is the folder of live-heap.ts. */
export async function takeSample(
  shadow: Shadow,
  { processId, heaps }: { readonly processId: number; readonly heaps: string },
): Promise<Sample> {
  const ours = await readProcesses(processId);
  const heapMb = await readHeaps(
    ours.map(({ pid }) => pid),
    heaps,
  );
  const [spoolBytes, ledger, source] = await Promise.all([
    folderBytes(shadow.spool),
    readLedger(shadow),
    readSource(shadow),
  ]);
  const files = await Promise.all(
    ours.map(async ({ pid }) => (await readdir(`/proc/${pid}/fd`).catch(() => [])).length),
  );
  return {
    heapMb,
    memoryMb: ours.reduce((sum, one) => sum + one.megabytes, 0),
    openFiles: files.reduce((sum, count) => sum + count, 0),
    spoolMb: spoolBytes / MEGABYTE,
    ...ledger,
    ...source,
  };
}

async function readHeaps(pids: readonly number[], heaps: string): Promise<number> {
  const sizes = await Promise.all(
    pids.map(async (pid) => {
      const file = join(heaps, String(pid));
      await rm(file, { force: true });
      process.kill(pid, 'SIGUSR2');
      for (let tries = 0; tries < ANSWER_TRIES; tries += 1) {
        await wait(ANSWER_MS);
        const megabytes = Number(await readFile(file, 'utf8').catch(() => ''));
        if (megabytes > 0) return megabytes;
      }
      throw new Error(`process ${pid} does not say how large its heap is`);
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function folderBytes(folder: string): Promise<number> {
  const names = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(
    // A segment may be trimmed at this moment.
    names.map(async (name) =>
      stat(join(folder, name)).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function readLedger({ target }: Shadow) {
  return withClient(target, async (client) => {
    const { rows } = await client.query(
      `SELECT (SELECT sum(pg_total_relation_size(c.oid)) / 1024 FROM pg_class c
                WHERE c.relnamespace = 'understudy'::regnamespace AND c.relkind = 'r')::float8 AS "ledgerKb",
              (SELECT sum(pg_total_relation_size(c.oid)) / 1024 FROM pg_class c
                WHERE c.relnamespace = 'understudy'::regnamespace
                  AND c.relname IN ('position', 'lease', 'progress', 'shadow'))::float8 AS "positionKb",
              (SELECT count(*) FROM understudy.request)::float8 AS "requestRows",
              (SELECT count(*) FROM understudy.chunk)::float8 + (SELECT count(*) FROM understudy.dirty_chunk)
                + (SELECT count(*) FROM understudy.verification) AS "ledgerRows",
              (SELECT transactions FROM app.total)::float8 AS transactions,
              (SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'understudy %')::float8 AS connections`,
    );
    return rows[0];
  });
}

async function readSource({ source }: Shadow) {
  return withClient(source, async (client) => {
    const { rows } = await client.query(
      `SELECT coalesce(max(pg_current_wal_lsn() - restart_lsn), 0)::float8 / ${MEGABYTE} AS "sourceWalMb"
         FROM pg_replication_slots WHERE database = current_database() AND NOT temporary`,
    );
    return rows[0];
  });
}
