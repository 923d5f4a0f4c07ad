import { join } from 'node:path';

import type { Endpoint } from '#src/core/endpoint.ts';

import type { Measurement } from './rounds.ts';
import { runProgram } from './run-program.ts';
import { passwordOf, urlWithoutPassword } from './servers.ts';

const MAIN = join(import.meta.dirname, '../../src/main.ts');

/** Our command as a user starts it, from its start to its exit. Throws when its exit code is not 0. */
export async function runUnderstudy(
  command: 'clone' | 'verify',
  ends: { readonly source: Endpoint; readonly target: Endpoint },
  jobs: number,
): Promise<Measurement> {
  const { seconds, cpuSeconds } = await runProgram(
    process.execPath,
    [
      MAIN,
      command,
      '--source',
      urlWithoutPassword(ends.source),
      '--target',
      urlWithoutPassword(ends.target),
      '--jobs',
      String(jobs),
      '--json',
    ],
    passwordOf(ends.source),
  );
  return { seconds, cpuSeconds };
}
