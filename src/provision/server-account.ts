import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { OperatorError } from '#src/lib/errors.ts';

const run = promisify(execFile);

/** Whom a server runs as. */
export type Account = { readonly uid: number; readonly gid: number };

/**
 * The account for embedded servers: undefined means our own. Postgres refuses to run as root, and needs
 * a user that the system knows (a made-up uid fails in initdb), so root runs it as `nobody`.
 */
export async function serverAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  try {
    return { uid: await readId('-u'), gid: await readId('-g') };
  } catch (error) {
    throw new OperatorError(
      'SERVER_START_FAILED',
      'this is root, and there is no user `nobody` to run Postgres as',
      { cause: error },
    );
  }
}

async function readId(flag: '-u' | '-g'): Promise<number> {
  const { stdout } = await run('id', [flag, 'nobody']);
  // macOS prints -2 for what the kernel calls 4294967294.
  return Number(stdout) >>> 0;
}
