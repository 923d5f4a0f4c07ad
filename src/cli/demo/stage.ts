import { randomBytes } from 'node:crypto';

import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import {
  type EmbeddedPostgres,
  embeddedVersions,
  startEmbeddedPostgres,
} from '#src/provision/embedded-postgres.ts';
import { createGuardedFolder } from '#src/provision/guarded-folder.ts';

import { SHOP_DATA } from './shop-data.ts';
import { SHOP_CONSTRAINTS, SHOP_TABLES } from './shop-schema.ts';

/** The two servers of the demo, each with a database `shop`; the shadow's is empty. */
export type Stage = AsyncDisposable & {
  readonly production: StageServer;
  readonly shadow: StageServer;
  /** Removed with the servers, whatever ends us. */
  readonly spoolDirectory: string;
};

export type StageServer = {
  readonly endpoint: Endpoint;
  /** As the server prints it, such as 18.4. */
  readonly version: string;
  /** With the password, which lives as long as the server. */
  readonly url: string;
};

const DATABASE = 'shop';

/** Nothing here has to survive a power cut; little memory, because two servers share a small machine. */
const SETTINGS = {
  fsync: 'off',
  full_page_writes: 'off',
  shared_buffers: '64MB',
  max_wal_size: '1GB',
  autovacuum_naptime: '10s',
};

/** Start the oldest and the newest Postgres that is installed. Throws SERVER_START_FAILED. */
export async function setStage(signal: AbortSignal): Promise<Stage> {
  const versions = embeddedVersions();
  const [oldest, newest] = [versions[0], versions.at(-1)];
  if (oldest === undefined || newest === undefined) {
    throw new OperatorError(
      'SERVER_START_FAILED',
      'no Postgres for this platform is installed (npm packages for Linux and macOS, x64 and arm64)',
    );
  }
  await using started = new AsyncDisposableStack();
  // Not Promise.all: when one fails, the other has to be waited for and ended.
  const [production, shadow] = await Promise.allSettled(
    [oldest, newest].map(async (version) => {
      const options = { version, password: newPassword(), settings: SETTINGS, signal };
      return started.use(await startEmbeddedPostgres(options));
    }),
  );
  if (production?.status !== 'fulfilled') throw production?.reason;
  if (shadow?.status !== 'fulfilled') throw shadow?.reason;
  const servers = await Promise.all([
    createDatabase(production.value),
    createDatabase(shadow.value),
  ]);
  const spool = started.use(await createGuardedFolder('understudy-demo-spool-'));
  const owned = started.move();
  return {
    production: servers[0],
    shadow: servers[1],
    spoolDirectory: spool.path,
    [Symbol.asyncDispose]: async () => owned.disposeAsync(),
  };
}

/** Servers listen on this machine only, but others may use it too. */
function newPassword(): string {
  return randomBytes(9).toString('hex');
}

async function createDatabase(server: EmbeddedPostgres): Promise<StageServer> {
  await using session = await openSession(server.endpoint, { applicationName: 'understudy demo' });
  await session.query(`CREATE DATABASE ${DATABASE}`);
  const [row] = await session.query(`SELECT current_setting('server_version') AS version`);
  const { host, port, user, password } = server.endpoint;
  return {
    endpoint: { ...server.endpoint, database: DATABASE },
    version: row?.['version'] ?? '',
    url: `postgres://${user}:${password}@${host}:${port}/${DATABASE}`,
  };
}

/** Build the shop; how many tables and rows it has. An abort takes effect between two scripts. */
export async function buildShop(
  endpoint: Endpoint,
  signal: AbortSignal,
): Promise<{ tables: number; rows: number }> {
  await using session = await openSession(endpoint, { applicationName: 'understudy demo' });
  for (const script of [SHOP_TABLES, SHOP_DATA, SHOP_CONSTRAINTS]) {
    signal.throwIfAborted();
    await session.query(script);
  }
  const [row] = await session.query(
    `SELECT count(*) AS tables, sum(reltuples)::bigint AS rows FROM pg_class
     WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('shop', 'stock', 'crm', '"Reporting"')`,
  );
  return { tables: Number(row?.['tables']), rows: Number(row?.['rows']) };
}
