import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { OperatorError } from '#src/lib/errors.ts';

/**
 * Where things are kept that take time to make and can be made again. It is under the system's
 * temporary folder because `nobody` must reach it and a checkout may be in a private home (trap 48).
 * Others may write there too, so a folder that is not ours alone is refused: we execute what is in it.
 */
async function cacheFolder(): Promise<string> {
  const own = process.getuid?.() ?? 0;
  const folder = join(tmpdir(), `understudy-cache-${own}`);
  await mkdir(folder, { mode: 0o755 }).catch((error: unknown) => {
    if (!isCode(error, 'EEXIST')) throw error;
  });
  const found = await lstat(folder);
  if (!found.isDirectory() || found.uid !== own) {
    throw new OperatorError('SERVER_START_FAILED', `${folder} belongs to another user`);
  }
  // Whatever the umask was, now or when the folder was made.
  await chmod(folder, 0o755);
  return folder;
}

/**
 * The folder `name` of the cache, made by `make` when it is not there or is older than `ageMsMax`. The
 * folder appears whole or not at all, and of two makers at once one wins and both get the same result.
 */
export async function cached(
  name: string,
  ageMsMax: number,
  make: (folder: string) => Promise<void>,
): Promise<string> {
  const cache = await cacheFolder();
  const folder = join(cache, name);
  const found = await lstat(folder).catch(() => undefined);
  if (found !== undefined && Date.now() - found.ctimeMs <= ageMsMax) return folder;

  const suffix = randomBytes(6).toString('hex');
  if (found !== undefined) await discard(folder, `${folder}.old-${suffix}`);
  const draft = `${folder}.new-${suffix}`;
  try {
    await make(draft);
    await rename(draft, folder).catch((error: unknown) => {
      // Another process was faster; its folder is as good as ours.
      if (!isCode(error, 'ENOTEMPTY') && !isCode(error, 'EEXIST')) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return folder;
}

/** Move away first: the name is free at once, and no one sees a half-removed folder under it. */
async function discard(folder: string, elsewhere: string): Promise<void> {
  await rename(folder, elsewhere).catch((error: unknown) => {
    if (!isCode(error, 'ENOENT')) throw error;
  });
  await rm(elsewhere, { recursive: true, force: true });
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
