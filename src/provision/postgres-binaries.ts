import { execFile } from 'node:child_process';
import { cp, readFile, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { OperatorError } from '#src/lib/errors.ts';

import { cached } from './cache-folder.ts';
import type { Account } from './server-account.ts';

const run = promisify(execFile);
const require = createRequire(import.meta.url);

const MAJORS = [14, 15, 16, 17, 18] as const;

/** Binaries of one major that the server's account can execute. */
export type Binaries = {
  readonly initdb: string;
  readonly postgres: string;
  /** Of the npm package, such as `18.4.0-beta.17`; names what is cached for it. */
  readonly packageVersion: string;
};

/** The majors whose npm package is installed here, in order. An optional dependency may be missing. */
export function embeddedVersions(): readonly number[] {
  return MAJORS.filter((major) => packageFolder(major) !== undefined);
}

/** Throws SERVER_START_FAILED when the package is missing or its programs do not run on this machine. */
export async function findBinaries(major: number, account: Account | undefined): Promise<Binaries> {
  const folder = packageFolder(major);
  if (folder === undefined) {
    throw new OperatorError(
      'SERVER_START_FAILED',
      `the npm package ${packageName(major)} with Postgres ${major} is not installed`,
    );
  }
  const manifest: { version: string } = JSON.parse(
    await readFile(join(folder, 'package.json'), 'utf8'),
  );
  const packageVersion = manifest.version;
  const inPlace = binariesIn(join(folder, 'native'), packageVersion);
  if ((await whyUnusable(inPlace, account)) === undefined) return inPlace;

  // A private home hides the checkout from `nobody` (trap 48), or install scripts were switched off
  // and the links between the shared libraries are missing. A copy mends both.
  const copy = await cached(`pg${major}-${packageVersion}-binaries`, Infinity, async (draft) => {
    await cp(join(folder, 'native'), draft, { recursive: true, verbatimSymlinks: true });
    await restoreLinks(draft);
  });
  const copied = binariesIn(copy, packageVersion);
  const reason = await whyUnusable(copied, account);
  if (reason === undefined) return copied;
  throw new OperatorError('SERVER_START_FAILED', `${copied.postgres} does not run: ${reason}`);
}

function packageName(major: number): string {
  return `pg${major}-${process.platform}-${process.arch}`;
}

function packageFolder(major: number): string | undefined {
  try {
    return join(dirname(require.resolve(packageName(major))), '..');
  } catch {
    return undefined;
  }
}

function binariesIn(native: string, packageVersion: string): Binaries {
  return {
    initdb: join(native, 'bin', 'initdb'),
    postgres: join(native, 'bin', 'postgres'),
    packageVersion,
  };
}

/** Running it is the one test that knows about modes, lists of rights, mount options and libraries. */
async function whyUnusable(
  binaries: Binaries,
  account: Account | undefined,
): Promise<string | undefined> {
  try {
    await run(binaries.postgres, ['--version'], { cwd: '/', ...account });
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What the package's install script does: npm's archives cannot hold links. */
async function restoreLinks(native: string): Promise<void> {
  const links: readonly { source: string; target: string }[] = JSON.parse(
    await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]'),
  );
  for (const link of links) {
    const path = join(native, '..', link.target.replace(/^native\//, `${basename(native)}/`));
    await symlink(basename(link.source), path).catch(() => undefined);
  }
}
