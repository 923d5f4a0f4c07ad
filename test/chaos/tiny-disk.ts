import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { serverAccount } from '#src/provision/server-account.ts';

/** A file system of its own that can be full, with nothing on it that others need. */
export type TinyDisk = AsyncDisposable & {
  readonly path: string;
  /** Until nothing more fits. */
  readonly fill: () => Promise<void>;
  /** What `fill` took is free again. */
  readonly free: () => Promise<void>;
};

/** Waits on a pipe that only we hold, so that nothing stays mounted when we are killed. */
const SCRIPT = `
mount -t tmpfs -o size="$2",mode=0777 tmpfs "$1" || exit 1
echo mounted
read -r word
umount -l "$1" && rmdir "$1"
`;

/** Undefined where this user may not mount anything: only root may, and not in every container. */
export async function createTinyDisk(megabytes: number): Promise<TinyDisk | undefined> {
  const path = await mkdtemp(join(tmpdir(), 'understudy-disk-'));
  // Servers that root starts run as somebody else.
  await chmod(path, 0o755);
  const holder = spawn('/bin/sh', ['-c', SCRIPT, 'sh', path, `${megabytes}m`], {
    detached: true,
    cwd: '/',
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const exited = once(holder, 'exit');
  holder.stdin.on('error', () => undefined);
  const lines = createInterface({ input: holder.stdout });
  const [line] = await Promise.race([once(lines, 'line'), exited.then(() => [''])]);
  if (line !== 'mounted') {
    await rm(path, { recursive: true, force: true });
    return undefined;
  }
  holder.unref();
  const filler = join(path, 'filler');
  return {
    path,
    fill: async () => {
      const { bavail, bsize } = await statfs(path);
      await writeFile(filler, Buffer.alloc(bavail * bsize)).catch(() => undefined);
    },
    free: async () => rm(filler, { force: true }),
    async [Symbol.asyncDispose]() {
      holder.ref();
      holder.stdin.end();
      await exited;
    },
  };
}

/** A new folder that belongs to whoever embedded servers run as. */
export async function ownFolder(path: string): Promise<string> {
  await mkdir(path, { mode: 0o700 });
  const account = await serverAccount();
  if (account !== undefined) await chown(path, account.uid, account.gid);
  return path;
}
