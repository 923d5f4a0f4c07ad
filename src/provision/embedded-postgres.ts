import { mkdtemp, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { createDataFolder, removeFolder } from './data-folder.ts';
import { type GuardedProcess, spawnGuarded } from './guarded-process.ts';
import { type Binaries, findBinaries } from './postgres-binaries.ts';
import { type Account, serverAccount } from './server-account.ts';

export { embeddedVersions } from './postgres-binaries.ts';

/** A standby says read-only. */
const READY = /ready to accept (read-only )?connections/;
const START_MS_MAX = 30_000;
/** A fast shutdown waits for walsenders whose clients have stopped reading; an immediate one does not. */
const FAST_STOP_MS_MAX = 5_000;
/** After a kill -9 the old server's children hold its shared memory until they notice. */
const LEFTOVER_MS_MAX = 15_000;
const PORT_TRIES = 3;
const PRINTED_CHARS_MAX = 4_000;

/** What a shadow needs of a server. https://www.postgresql.org/docs/current/runtime-config-replication.html */
const DEFAULT_SETTINGS: Readonly<Record<string, string>> = {
  wal_level: 'logical',
  max_wal_senders: '40',
  max_replication_slots: '40',
  max_prepared_transactions: '10',
  max_connections: '100',
  // Without it a statement whose client was killed goes on to its end, and every new slot waits for it.
  // Postgres 14 knows how to look on Linux only, and refuses to start with it elsewhere.
  ...(process.platform === 'linux' ? { client_connection_check_interval: '2s' } : {}),
};

/** Until then the number of slots is that of origins, too. */
const OWN_ORIGIN_SETTING = 18;

export type EmbeddedPostgres = AsyncDisposable & {
  /** Superuser `postgres`, database `postgres`. */
  readonly endpoint: Endpoint;
  /** Of the postmaster. */
  readonly processId: number;
  readonly directory: string;
  /** Shut down in order; the folder stays. Also when it has already ended. */
  readonly stop: () => Promise<void>;
  /** As a crash does; the folder stays, and a start on it recovers. */
  readonly kill9: () => Promise<void>;
};

export type EmbeddedPostgresOptions = {
  readonly version: number;
  readonly password: string;
  /**
   * The data folder: created when it is missing or empty, else started again with the password it has.
   * Without one, a temporary folder that is removed at disposal and after the death of this process.
   */
  readonly directory?: string;
  /** A free one when absent. */
  readonly port?: number;
  /** Beyond, or instead of, what a shadow needs. `fsync: 'off'` only where losing the data is fine. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Gives up a start that has not finished. */
  readonly signal?: AbortSignal;
};

/**
 * Start a real Postgres from an npm package, on 127.0.0.1 only. Its end is at disposal, or when this
 * process dies in whatever way. Throws SERVER_START_FAILED with what Postgres printed.
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const account = await serverAccount();
  const binaries = await findBinaries(options.version, account);
  const isTemporary = options.directory === undefined;
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'understudy-pg-')));
  try {
    options.signal?.throwIfAborted();
    await prepare(directory, binaries, account, options);
    const { server, port } = await launch(directory, binaries, account, options);
    return makeHandle({ options, server, port, directory, isTemporary });
  } catch (error) {
    if (isTemporary) await removeFolder(directory);
    throw error;
  }
}

async function prepare(
  directory: string,
  binaries: Binaries,
  account: Account | undefined,
  options: EmbeddedPostgresOptions,
): Promise<void> {
  const found = await readFile(join(directory, 'PG_VERSION'), 'utf8').catch(() => undefined);
  if (found === undefined) {
    await createDataFolder({ directory, binaries, account, password: options.password });
  } else if (Number(found) !== options.version) {
    throw new OperatorError(
      'SERVER_START_FAILED',
      `${directory} holds Postgres ${found.trim()}, not ${options.version}`,
    );
  }
}

/** Try until the server is ready, where trying again can help: a free port may be taken before we use it. */
async function launch(
  directory: string,
  binaries: Binaries,
  account: Account | undefined,
  options: EmbeddedPostgresOptions,
): Promise<{ server: GuardedProcess; port: number }> {
  const leftoverDeadline = Date.now() + LEFTOVER_MS_MAX;
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port ?? (await findFreePort());
    const server = await spawnGuarded({
      program: binaries.postgres,
      args: ['-D', directory, ...settingArgs(port, options)],
      directory,
      account,
      removeAfterDeath: options.directory === undefined ? directory : undefined,
    });
    const outcome = await waitUntilReady(server, options.signal);
    if (outcome.isReady) return { server, port };
    await end(server);
    options.signal?.throwIfAborted();
    // Our own binaries print in the C locale, and a server that does not start has no SQLSTATE to give.
    const hasLeftovers = /pre-existing shared memory|lock file "postmaster\.pid"/.test(
      outcome.printed,
    );
    if (hasLeftovers && Date.now() < leftoverDeadline) await wait(100);
    else if (hasLeftovers || options.port !== undefined || attempt === PORT_TRIES) {
      throw new OperatorError(
        'SERVER_START_FAILED',
        `Postgres ${options.version} did not start on port ${port}: ${outcome.printed.trim()}`,
      );
    }
  }
}

function settingArgs(port: number, options: EmbeddedPostgresOptions): readonly string[] {
  const chosen: Readonly<Record<string, string | undefined>> = {
    ...DEFAULT_SETTINGS,
    ...options.settings,
  };
  const settings = {
    ...(options.version >= OWN_ORIGIN_SETTING && {
      max_active_replication_origins: chosen['max_replication_slots'],
    }),
    ...chosen,
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
  };
  return Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

/** A start is over when the server says so, ends, takes too long or is no longer wanted. */
async function waitUntilReady(
  server: GuardedProcess,
  signal: AbortSignal | undefined,
): Promise<{ isReady: boolean; printed: string }> {
  let printed = '';
  const deadline = AbortSignal.timeout(START_MS_MAX);
  const stopped = AbortSignal.any(signal === undefined ? [deadline] : [deadline, signal]);
  const ready = new Promise<boolean>((resolve) => {
    // Read for as long as it lives: a full pipe would stop the server.
    server.stderr.setEncoding('utf8').on('data', (text: string) => {
      printed = (printed + text).slice(-PRINTED_CHARS_MAX);
      if (READY.test(printed)) resolve(true);
    });
    server.stderr.once('end', () => resolve(false));
    stopped.addEventListener('abort', () => resolve(false));
  });
  const isReady = await ready;
  return { isReady, printed };
}

function makeHandle(parts: {
  options: EmbeddedPostgresOptions;
  server: GuardedProcess;
  port: number;
  directory: string;
  isTemporary: boolean;
}): EmbeddedPostgres {
  const { options, server, port, directory, isTemporary } = parts;
  return {
    endpoint: {
      host: '127.0.0.1',
      port,
      database: 'postgres',
      user: 'postgres',
      password: options.password,
      sslMode: 'disable',
      sslRootCert: undefined,
      sslCert: undefined,
      sslKey: undefined,
      connectTimeoutMs: 10_000,
    },
    processId: server.processId,
    directory,
    stop: async () => end(server),
    kill9: async () => {
      signalServer(server, 'SIGKILL');
      await server.exited;
    },
    async [Symbol.asyncDispose]() {
      await end(server);
      if (isTemporary) await removeFolder(directory);
    },
  };
}

/** Fast, then immediate, then by force; returns when it has ended. */
async function end(server: GuardedProcess): Promise<void> {
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
    signalServer(server, signal);
    const timer = new AbortController();
    const timeout = wait(FAST_STOP_MS_MAX, false, { signal: timer.signal }).catch(() => false);
    const hasEnded = await Promise.race([server.exited.then(() => true), timeout]);
    timer.abort();
    if (hasEnded) return;
  }
}

function signalServer(server: GuardedProcess, signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): void {
  // Once it has ended, the number may be another process's.
  if (server.hasExited() || server.processId === 0) return;
  try {
    process.kill(server.processId, signal);
  } catch (error) {
    // It has ended this moment, and its `exited` is on the way.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

async function findFreePort(): Promise<number> {
  const listener = createServer();
  await new Promise<void>((resolve, reject) => {
    listener.once('error', reject);
    listener.listen(0, '127.0.0.1', resolve);
  });
  const address = listener.address();
  await new Promise((resolve) => listener.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no TCP port to listen on');
  return address.port;
}
