import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chown, lchown, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { OperatorError } from '#src/lib/errors.ts';

import { cached } from './cache-folder.ts';
import type { Binaries } from './postgres-binaries.ts';
import type { Account } from './server-account.ts';

const run = promisify(execFile);

/** Cleaners of temporary folders remove single old files; a template is made anew before they would. */
const TEMPLATE_AGE_MS_MAX = 24 * 3600 * 1000;

/** What a server process sees of our environment. C and UTC, so that its messages are the same everywhere. */
export const SERVER_ENVIRONMENT = {
  PATH: process.env['PATH'] ?? '/usr/bin:/bin',
  LC_ALL: 'C',
  TZ: 'UTC',
};

/**
 * Make `directory`, missing or empty, a new cluster whose superuser `postgres` has `password`. It
 * appears whole: a folder without its password would be taken for a good one the next time.
 *
 * initdb takes half a second of CPU and copying its result a tenth, so the result is kept as a template.
 * It holds no secret: the password is set afterwards in single-user mode, before anyone can connect.
 */
export async function createDataFolder(options: {
  readonly directory: string;
  readonly binaries: Binaries;
  readonly account: Account | undefined;
  readonly password: string;
}): Promise<void> {
  const { directory, binaries, account, password } = options;
  const template = await cached(
    `pg-${binaries.packageVersion}-template`,
    TEMPLATE_AGE_MS_MAX,
    async (draft) => makeTemplate(draft, binaries, account),
  );
  const draft = `${directory}.new`;
  await removeFolder(draft);
  try {
    await mkdir(draft, { mode: 0o700 });
    // Not fs.cp: it takes half a second for these thousand files, the program a tenth.
    await run('cp', ['-R', `${template}/.`, draft]);
    await writeFile(
      join(draft, 'pg_hba.conf'),
      ['all', 'replication']
        .map((database) => `host ${database} all 127.0.0.1/32 scram-sha-256\n`)
        .join(''),
    );
    await giveTo(account, draft);
    await setPassword(draft, binaries, account, password);
    await rename(draft, directory);
  } finally {
    await removeFolder(draft);
  }
}

async function makeTemplate(
  draft: string,
  binaries: Binaries,
  account: Account | undefined,
): Promise<void> {
  await mkdir(draft, { mode: 0o700 });
  await giveTo(account, draft);
  const flags = ['-U', 'postgres', '-A', 'trust', '--encoding=UTF8', '--locale=C'];
  try {
    await run(binaries.initdb, ['-D', draft, ...flags, '--no-sync', '--no-instructions'], {
      cwd: draft,
      env: SERVER_ENVIRONMENT,
      ...account,
    });
  } catch (error) {
    const printed = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
    throw new OperatorError('SERVER_START_FAILED', `initdb failed: ${printed.trim()}`, {
      cause: error,
    });
  }
  // Other programs that run as `nobody` must not be able to change what later servers start from.
  if (account !== undefined) await giveTo({ uid: 0, gid: 0 }, draft);
}

async function setPassword(
  directory: string,
  binaries: Binaries,
  account: Account | undefined,
  password: string,
): Promise<void> {
  const single = spawn(
    binaries.postgres,
    ['--single', '-D', directory, '-c', 'fsync=off', 'postgres'],
    {
      cwd: directory,
      env: SERVER_ENVIRONMENT,
      stdio: ['pipe', 'ignore', 'pipe'],
      ...account,
    },
  );
  let printed = '';
  single.stderr.setEncoding('utf8').on('data', (text: string) => (printed += text));
  // By standard input, because arguments can be read by every user. One line is one statement.
  single.stdin.end(`ALTER ROLE postgres PASSWORD '${password.replaceAll("'", "''")}'\n`);
  const [code] = await once(single, 'close');
  // A refused statement does not change the exit code, but says so.
  if (code !== 0 || printed.includes('ERROR:')) {
    throw new OperatorError('SERVER_START_FAILED', `postgres --single failed: ${printed.trim()}`);
  }
}

/** Change the owner of a folder and all that is in it. */
async function giveTo(account: Account | undefined, folder: string): Promise<void> {
  if (account === undefined) return;
  await chown(folder, account.uid, account.gid);
  const entries = await readdir(folder, { recursive: true });
  await Promise.all(entries.map((entry) => lchown(join(folder, entry), account.uid, account.gid)));
}

export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
}
