import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { z } from 'zod';

import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { corruptError, errnoOf, replaceFile } from './files.ts';
import { FORMAT_VERSION } from './format.ts';

/** What a spool's positions mean anything for (trap 15). */
export type SpoolIdentity = {
  readonly shadowId: string;
  readonly systemId: string;
  readonly timeline: number;
  readonly slot: string;
  /** The slot's consistent point: everything before it is in the copy. */
  readonly createdLsn: Lsn;
};

/** As it is in the folder. */
export type StoredIdentity = SpoolIdentity & {
  /** Later than `createdLsn` for a spool that was made anew: it never had what ended before. */
  readonly startLsn: Lsn;
};

export const IDENTITY_NAME = 'identity';

const identityFile = z.object({
  version: z.number(),
  shadowId: z.string(),
  systemId: z.string(),
  timeline: z.number(),
  slot: z.string(),
  createdLsn: z.string(),
  startLsn: z.string(),
});

/** The identity that a folder holds, or undefined when it holds none. */
export async function readIdentity(directory: string): Promise<StoredIdentity | undefined> {
  const path = join(directory, IDENTITY_NAME);
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  const { version, createdLsn, startLsn, ...names } = parseIdentityFile(path, content);
  if (version !== FORMAT_VERSION) {
    throw corruptError(path, 0, `it has format ${version} instead of ${FORMAT_VERSION}`);
  }
  return { ...names, createdLsn: position(createdLsn), startLsn: position(startLsn) };
}

function position(text: string): Lsn {
  return parseLsn(text) ?? lsn(0n);
}

export async function writeIdentity(directory: string, identity: StoredIdentity): Promise<void> {
  const content: z.infer<typeof identityFile> = {
    version: FORMAT_VERSION,
    ...identity,
    createdLsn: formatLsn(identity.createdLsn),
    startLsn: formatLsn(identity.startLsn),
  };
  await replaceFile(directory, IDENTITY_NAME, `${JSON.stringify(content)}\n`);
}

/** Throws SOURCE_CHANGED when the folder is of another server, SPOOL_MISSING when of another shadow. */
export function checkIdentity(
  directory: string,
  found: SpoolIdentity,
  expected: SpoolIdentity,
  formerTimelines: readonly number[],
): void {
  const isTimeline = [expected.timeline, ...formerTimelines].includes(found.timeline);
  if (found.systemId !== expected.systemId || !isTimeline) {
    throw new OperatorError(
      'SOURCE_CHANGED',
      `the spool folder ${directory} is of system ${found.systemId} timeline ${found.timeline}, not of ${expected.systemId} timeline ${expected.timeline}`,
    );
  }
  if (
    found.shadowId !== expected.shadowId ||
    found.slot !== expected.slot ||
    found.createdLsn !== expected.createdLsn
  ) {
    throw new OperatorError(
      'SPOOL_MISSING',
      `the spool folder ${directory} is of shadow ${found.shadowId}, slot ${found.slot} made at ${formatLsn(found.createdLsn)}, not of ${expected.shadowId}, slot ${expected.slot} made at ${formatLsn(expected.createdLsn)}`,
    );
  }
}

function parseIdentityFile(path: string, text: string): z.infer<typeof identityFile> {
  try {
    return identityFile.parse(JSON.parse(text));
  } catch {
    throw corruptError(path, 0, 'it is not the identity of a spool');
  }
}
