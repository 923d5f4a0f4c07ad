import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import { createGuardedFolder } from '#src/provision/guarded-folder.ts';
import { type Ended, parseLines, runCommand, startCommand, urlOf } from '#test/command.ts';

import { checkLedger, countTransactions, findDifferences, withClient } from './compare.ts';

/** A source, a target and the command between them, run as an operator does. */
export type Shadow = AsyncDisposable & {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly spool: string;
  /** `understudy clone --follow`. */
  readonly start: (options?: StartOptions) => Clone;
  readonly status: () => Promise<Ended>;
  /** Any other command on the pair, to its end. */
  readonly run: (args: readonly string[], failpoints?: string) => Promise<Ended>;
};

export type StartOptions = {
  readonly failpoints?: string | undefined;
  /** Further arguments. */
  readonly more?: readonly string[];
  /** See startCommand. */
  readonly limit?: string;
  /** Further variables of its environment. */
  readonly env?: Readonly<Record<string, string>>;
};

export type Clone = AsyncDisposable & {
  readonly processId: number;
  readonly kill: (signal: NodeJS.Signals) => void;
  readonly waitFor: (text: string | RegExp) => Promise<string>;
  readonly ended: Promise<Ended>;
  readonly hasEnded: () => boolean;
  readonly isFollowing: () => boolean;
};

export const FOLLOWING = '"phase":"following"';

/** SIGUSR2 sets the clock of a command with this in its environment. */
export const JUMPING_CLOCK = {
  NODE_OPTIONS: `--import=${join(import.meta.dirname, 'jumping-clock.ts')}`,
};

const CATCH_UP_MS = 60_000;
/** Of a command that ends by itself, on a machine that is busy with other tests. */
const END_MS = 150_000;
const POLL_MS = 50;

export async function createShadow(
  source: Endpoint,
  target: Endpoint,
  /**
   * By which way, and as whom, the command connects; the test itself goes straight to the servers and may do
   * everything there.
   */
  ways: {
    readonly source?: Endpoint;
    readonly target?: Endpoint;
    readonly spool?: string;
  } = {},
): Promise<Shadow> {
  // Removed also when whoever runs this is killed.
  const spoolFolder = await createGuardedFolder('understudy-chaos-');
  const spool = ways.spool ?? spoolFolder.path;
  const from = urlOf(ways.source ?? source);
  const to = urlOf(ways.target ?? target);
  const stores = ['--source', from, '--target', to];
  const running = new Set<Clone>();
  // A killed process writes no cache, so one that ends in order fills it: half of a start's time.
  const cacheFolder = await createGuardedFolder('understudy-compiled-');
  const environment = (failpoints: string | undefined): Record<string, string> => ({
    NODE_COMPILE_CACHE: cacheFolder.path,
    ...(failpoints === undefined ? {} : { UNDERSTUDY_FAILPOINTS: failpoints }),
  });
  await runCommand(['--help'], environment(undefined));
  return {
    source,
    target,
    spool,
    start: ({ failpoints, more = [], limit, env = {} } = {}) => {
      const args = ['clone', ...stores, '--follow', '--json', '--spool', spool, ...more];
      const clone = watch(startCommand(args, { ...environment(failpoints), ...env }, limit));
      running.add(clone);
      void clone.ended.then(() => running.delete(clone));
      return clone;
    },
    status: async () => runCommand(['status', '--target', urlOf(target), '--json']),
    run: async ([name = '', ...args], failpoints) => {
      await using command = watch(
        startCommand([name, ...stores, '--json', ...args], environment(failpoints)),
      );
      return await endOf(command, `of ${name}`);
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...running].map(async (clone) => clone[Symbol.asyncDispose]()));
      await removeLeftovers(source, target);
      for (const folder of [spoolFolder, cacheFolder]) await folder[Symbol.asyncDispose]();
    },
  };
}

function watch(command: ReturnType<typeof startCommand>): Clone {
  let hasEnded = false;
  let isFollowing = false;
  void command.ended.then(() => (hasEnded = true));
  command.waitFor(FOLLOWING).then(
    () => (isFollowing = true),
    () => undefined,
  );
  return {
    processId: command.processId,
    kill: command.kill,
    waitFor: command.waitFor,
    ended: command.ended,
    hasEnded: () => hasEnded,
    isFollowing: () => isFollowing,
    // One that is stopped by SIGSTOP dies of SIGKILL, too.
    [Symbol.asyncDispose]: async () => command[Symbol.asyncDispose](),
  };
}

/** Origins belong to the server, not to the database that the fixture drops. */
async function removeLeftovers(source: Endpoint, target: Endpoint): Promise<void> {
  await withClient(source, async (client) =>
    client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'understudy %'
                     AND application_name NOT LIKE '% test%'`),
  ).catch(() => undefined);
  await withClient(target, async (client) => {
    const { rows } = await client.query('SELECT origin_name FROM understudy.shadow');
    for (const { origin_name: origin } of rows) {
      await until('the origin is free', async () =>
        client
          .query(
            'SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = $1',
            [origin],
          )
          .then(
            () => true,
            () => false,
          ),
      );
    }
    // There is no ledger, or no server any more.
  }).catch(() => undefined);
}

/** Wait for a fact. */
export async function until(
  what: string,
  fact: () => Promise<boolean>,
  deadlineMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await fact())) {
    if (performance.now() > deadline) throw new Error(`in ${deadlineMs} ms it never was: ${what}`);
    await wait(POLL_MS);
  }
}

/** How a command ended that must end by itself; throws with its last words when it does not. */
export async function endOf(clone: Clone, why = 'by itself'): Promise<Ended> {
  try {
    await until(`the command has ended ${why}`, async () => clone.hasEnded(), END_MS);
  } catch (error) {
    clone.kill('SIGKILL');
    throw new Error(describeEnd(await clone.ended), { cause: error });
  }
  return clone.ended;
}

/** The code of the error that a command ended with, or undefined. */
export function errorOf({ stdout }: Ended): string | undefined {
  // One that was killed may have printed half a line.
  const line = stdout.split('\n').findLast((text) => text.includes('"type":"error"'));
  return /"code":"(\w+)"/.exec(line ?? '')?.[1];
}

/**
 * The source is quiet: wait until the target has as many transactions, and give everything that is wrong
 * with it then.
 */
export async function settle(shadow: Shadow, clone: Clone): Promise<readonly string[]> {
  const { source, target } = shadow;
  const expected = await countTransactions(source);
  try {
    await until(
      `${expected} transactions on the target`,
      async () =>
        clone.hasEnded() || (clone.isFollowing() && (await countTransactions(target)) >= expected),
      CATCH_UP_MS,
    );
  } catch (error) {
    return [`${String(error)}; it has ${await countTransactions(target)}`];
  }
  if (clone.hasEnded()) return [`the clone ended: ${describeEnd(await clone.ended)}`];
  return [
    ...(await findDifferences(source, target)),
    ...(await checkLedger(source)).map((wrong) => `source: ${wrong}`),
    ...(await checkLedger(target)).map((wrong) => `target: ${wrong}`),
  ];
}

/** What `verify` and `status` say; nothing when all is well. */
export async function verify(shadow: Shadow): Promise<readonly string[]> {
  const ended = await shadow.run(['verify']);
  const verdict = parseLines(ended.stdout).findLast((line) => line['type'] === 'verified');
  const wrong: string[] = [];
  if (ended.code !== 0) wrong.push(`verify: ${describeEnd(ended)}`);
  if (JSON.stringify(verdict?.['unverified']) !== '[]') {
    wrong.push(`verify left out ${JSON.stringify(verdict?.['unverified'])}`);
  }
  return wrong;
}

export function describeEnd({ code, stdout, stderr }: Ended): string {
  return `code ${code}: ${stdout.trimEnd().split('\n').slice(-3).join(' | ')} ${stderr}`;
}
