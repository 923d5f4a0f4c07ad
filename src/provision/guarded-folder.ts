import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export type GuardedFolder = AsyncDisposable & { readonly path: string };

/**
 * Waits on a pipe that only we hold. When it ends without a word we are gone, kill -9 included, and
 * nobody else would remove the folder.
 */
const SCRIPT = 'read -r word || rm -rf "$1"';

/**
 * A temporary folder of our own that is removed at disposal, or when this process dies in whatever way.
 * Not below a server's folder: as root, its guard is `nobody` and may not remove what is ours.
 */
export async function createGuardedFolder(prefix: string): Promise<GuardedFolder> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  // Detached, so that a Ctrl-C of the terminal does not end it before us.
  const guard = spawn('/bin/sh', ['-c', SCRIPT, 'sh', path], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.stdin.on('error', () => undefined);
  guard.unref();
  return {
    path,
    async [Symbol.asyncDispose]() {
      await rm(path, { recursive: true, force: true });
      guard.stdin.end('released\n');
    },
  };
}
