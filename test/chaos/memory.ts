import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';

/** Memory of a process and what it started, as Linux counts it; pages that two of them share count twice. */
export type MemoryWatch = AsyncDisposable & {
  /** The most that was seen at one moment, in MB, and which processes it was made of. */
  readonly peak: () => { readonly megabytes: number; readonly parts: readonly string[] };
};

const SAMPLE_MS = 25;

/** Sample `processId` and its descendants that run Node; the servers of the demo do not count. */
export function watchMemory(processId: number): MemoryWatch {
  let megabytes = 0;
  let parts: readonly string[] = [];
  const over = new AbortController();
  const sample = async (): Promise<void> => {
    while (!over.signal.aborted) {
      const found = await readProcesses(processId);
      const sum = found.reduce((total, one) => total + one.megabytes, 0);
      if (sum > megabytes) {
        megabytes = sum;
        parts = found.map((one) => `${one.megabytes} MB ${one.command}`);
      }
      await wait(SAMPLE_MS);
    }
  };
  const sampling = sample();
  return {
    peak: () => ({ megabytes, parts }),
    async [Symbol.asyncDispose]() {
      over.abort();
      await sampling;
    },
  };
}

type Sampled = {
  readonly pid: number;
  readonly megabytes: number;
  readonly command: string;
};

/** A process and its descendants that run Node. */
export async function readProcesses(root: number): Promise<readonly Sampled[]> {
  const children = new Map<number, number[]>();
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  await Promise.all(
    pids.map(async (pid) => {
      const parent = Number(/^PPid:\s+(\d+)/m.exec(await readOrEmpty(`/proc/${pid}/status`))?.[1]);
      children.set(parent, [...(children.get(parent) ?? []), pid]);
    }),
  );
  const tree: number[] = [root];
  for (let i = 0; i < tree.length; i += 1) tree.push(...(children.get(tree[i] ?? 0) ?? []));
  const sampled = await Promise.all(tree.map(readProcess));
  return sampled.filter((one) => one !== undefined);
}

async function readProcess(pid: number): Promise<Sampled | undefined> {
  const command = (await readOrEmpty(`/proc/${pid}/cmdline`)).split('\0');
  if (!command[0]?.endsWith('node')) return undefined;
  const kilobytes = /^VmRSS:\s+(\d+)/m.exec(await readOrEmpty(`/proc/${pid}/status`))?.[1];
  const file = command.find((word) => /\.(ts|js)$/.test(word)) ?? '';
  return {
    pid,
    megabytes: Math.round(Number(kilobytes) / 1024),
    command: file.replace(/.*\//, ''),
  };
}

async function readOrEmpty(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}
