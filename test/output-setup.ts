import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describeLeaks, scanOutput } from './output-scan.ts';
import { OUTPUT_VARIABLE } from './output.ts';
import { parseTestServers } from './servers.ts';

/**
 * A folder for what the product says in this run, scanned when every test is over. Both projects of
 * vitest come here; the first one makes the folder.
 */
export default async function setUp(): Promise<(() => Promise<void>) | undefined> {
  if (process.env[OUTPUT_VARIABLE] !== undefined) return undefined;
  const folder = await mkdtemp(join(tmpdir(), 'understudy-said-'));
  process.env[OUTPUT_VARIABLE] = folder;
  return async () => {
    const leaks = await scanOutput(folder, passwordsOfUrls());
    // Left there for whoever looks into it.
    if (leaks.length > 0) throw new Error(describeLeaks(folder, leaks));
    await rm(folder, { recursive: true });
  };
}

/** Of servers that were not started for the run, which have whatever password: as it stands in a URL. */
function passwordsOfUrls(): readonly string[] {
  const servers = Object.values(parseTestServers(process.env['UNDERSTUDY_TEST_POSTGRES']));
  return [...new Set(servers.map(({ password }) => `:${password}@`))];
}
