import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { link, readFile, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { OperatorError } from '#src/lib/errors.ts';

import { errnoOf, FILE_MODE } from './files.ts';

/**
 * At most one process writes a spool. Node has no flock, so a file names the holder by pid and start
 * time; a holder that is dead, or whose pid is another process by now, is displaced. The lease on the
 * target already excludes a second runner; this also catches one of another shadow with the same folder.
 */
export const LOCK_NAME = 'lock';

/** Throws LEASE_HELD while another process, or this one, holds the folder. */
export async function lockDirectory(directory: string): Promise<AsyncDisposable> {
  const path = join(directory, LOCK_NAME);
  const mine = `${process.pid} ${(await startTimeOf(process.pid)) ?? ''}\n`;
  // Written aside and linked into place, so that nobody ever reads half of it.
  const draft = join(directory, `${LOCK_NAME}.${randomUUID()}`);
  await writeFile(draft, mine, { mode: FILE_MODE });
  try {
    if (!(await linked(draft, path))) {
      await displaceDeadHolder(path, `${draft}.stale`);
      if (!(await linked(draft, path))) throw heldError(directory, await readOrEmpty(path));
    }
  } finally {
    await unlink(draft);
  }
  return {
    [Symbol.asyncDispose]: async () => {
      if ((await readOrEmpty(path)) === mine) await unlink(path);
    },
  };
}

/** Throws LEASE_HELD while a living process, this one included, holds the folder. Changes nothing, and needs no folder. */
export async function requireUnlocked(directory: string): Promise<void> {
  const holder = await readOrEmpty(join(directory, LOCK_NAME));
  if (await isHolderRunning(holder)) throw heldError(directory, holder);
}

async function displaceDeadHolder(path: string, aside: string): Promise<void> {
  const holder = await readOrEmpty(path);
  if (await isHolderRunning(holder)) return;
  await rename(path, aside).catch(ignoreMissing);
  // Another process may have displaced it first, so that this moved a living lock: put that one back.
  if ((await readOrEmpty(aside)) !== holder) await linked(aside, path);
  await unlink(aside).catch(ignoreMissing);
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

async function isHolderRunning(holder: string): Promise<boolean> {
  const [text, startTime = ''] = holder.trim().split(/ (.*)/s);
  const pid = Number(text);
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  return (await startTimeOf(pid)) === startTime;
}

/** Anything that tells two processes with the same pid apart; undefined when there is no such process. */
async function startTimeOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const stat = await readOrEmpty(`/proc/${pid}/stat`);
    // State and start time, fields 3 and 22; the command, field 2, is in parentheses and may hold
    // anything. See proc_pid_stat(5).
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // Killed, and not yet reaped by its parent: it holds nothing any more.
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  }
  const listed = await promisify(execFile)('ps', ['-o', 'lstart=', '-p', String(pid)]).catch(
    () => undefined,
  );
  return listed?.stdout.trim();
}

async function readOrEmpty(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    ignoreMissing(error);
    return '';
  });
}

function ignoreMissing(error: unknown): void {
  const errno = errnoOf(error);
  // ESRCH: a process that ended while its /proc entry was read.
  if (errno !== 'ENOENT' && errno !== 'ESRCH') throw error;
}

function heldError(directory: string, holder: string): OperatorError {
  const pid = holder.split(' ')[0] ?? '';
  return new OperatorError('LEASE_HELD', `process ${pid} uses the spool folder ${directory}`, {
    detail: { directory, pid },
  });
}
