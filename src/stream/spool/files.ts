import { constants } from 'node:fs';
import { mkdir, open, readdir, rename, type FileHandle } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';

import { OperatorError } from '#src/lib/errors.ts';

/** How a spool opens its files; tests make the disk fail here. */
export type OpenFile = (path: string, flags: string, mode: number) => Promise<FileHandle>;

export const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

const SEGMENT_NAME = /^([0-9a-f]{16})\.seg$/;

export function segmentPath(directory: string, segment: number): string {
  return join(directory, `${segment.toString(16).padStart(16, '0')}.seg`);
}

/** Numbers of the segments in a folder, ascending. */
export async function listSegments(directory: string): Promise<number[]> {
  const names = await readdir(directory);
  return names
    .map((name) => SEGMENT_NAME.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map((digits) => Number.parseInt(digits, 16))
    .toSorted((a, b) => a - b);
}

/** A file that was created or renamed survives a power cut only once its folder is synced. */
export async function syncDirectory(directory: string): Promise<void> {
  await using handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  await handle.sync();
}

/** Also its parents; nothing when it is there already. */
export async function createDirectory(directory: string): Promise<void> {
  const path = resolve(directory);
  const topmost = await mkdir(path, { recursive: true, mode: DIRECTORY_MODE });
  if (topmost === undefined) return;
  for (let made = path; made.length >= topmost.length; made = dirname(made)) {
    await syncDirectory(dirname(made));
  }
}

/** All of the new content or, after a crash, all of the old one. */
export async function replaceFile(directory: string, name: string, content: string): Promise<void> {
  const temporary = join(directory, `${name}.new`);
  {
    await using handle = await open(temporary, 'w', FILE_MODE);
    await handle.writeFile(content);
    await handle.sync();
  }
  await rename(temporary, join(directory, name));
  await syncDirectory(directory);
}

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** The operating system's refusal as an OperatorError; anything else is ours and stays what it is. */
export function fileError(path: string, action: string, cause: unknown): Error {
  const errno = errnoOf(cause);
  if (cause instanceof OperatorError || errno === undefined) {
    return cause instanceof Error ? cause : new Error(String(cause));
  }
  return new OperatorError(
    FULL.has(errno) ? 'SPOOL_FULL' : 'SPOOL_UNUSABLE',
    `cannot ${action} ${path}: ${errno}`,
    { detail: { path, errno }, cause },
  );
}

export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

export function corruptError(path: string, offset: number, what: string): OperatorError {
  return new OperatorError('SPOOL_CORRUPT', `${path} is damaged at byte ${offset}: ${what}`, {
    detail: { path, offset },
  });
}
