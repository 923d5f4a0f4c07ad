import { randomBytes } from 'node:crypto';

import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteIdentifier } from '#src/core/table.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '#src/provision/embedded-postgres.ts';

/**
 * What both servers run with: as a server of this size would, and safe (fsync is on). Autovacuum is
 * off because it would hit one contender and not the other.
 */
export const SERVER_SETTINGS: Readonly<Record<string, string>> = {
  shared_buffers: '1GB',
  wal_level: 'logical',
  max_wal_size: '4GB',
  fsync: 'on',
  autovacuum: 'off',
  // Else a subscription may wait five seconds before it begins.
  wal_retrieve_retry_interval: '100ms',
};

/** Two servers with nothing on them but what a benchmark makes. */
export type ServerPair = AsyncDisposable & {
  readonly source: BenchServer;
  readonly target: BenchServer;
};

export type BenchServer = {
  readonly endpoint: Endpoint;
  /** Of the postmaster, whose CPU and whose children's is measured. */
  readonly processId: number;
  /** In database `postgres`. */
  readonly admin: Session;
};

export async function startServerPair(version: number): Promise<ServerPair> {
  await using owned = new AsyncDisposableStack();
  const password = randomBytes(12).toString('hex');
  const start = async (): Promise<BenchServer> => {
    const server: EmbeddedPostgres = owned.use(
      await startEmbeddedPostgres({ version, password, settings: SERVER_SETTINGS }),
    );
    const admin = owned.use(await openSession(server.endpoint, { applicationName: 'bench' }));
    return { endpoint: server.endpoint, processId: server.processId, admin };
  };
  const source = await start();
  const target = await start();
  const resources = owned.move();
  return { source, target, [Symbol.asyncDispose]: async () => resources.disposeAsync() };
}

/** A new database, dropped at disposal; `template` is what it starts as. */
export async function createDatabase(
  server: BenchServer,
  name: string,
  template = 'template0',
): Promise<AsyncDisposable & { readonly endpoint: Endpoint }> {
  const { admin } = server;
  await admin.query(
    `CREATE DATABASE ${quoteIdentifier(name)} TEMPLATE ${quoteIdentifier(template)}`,
  );
  return {
    endpoint: { ...server.endpoint, database: name },
    [Symbol.asyncDispose]: async () => {
      await admin.query(`DROP DATABASE ${quoteIdentifier(name)} WITH (FORCE)`);
    },
  };
}

/** So that no contender pays for what another one wrote. */
export async function checkpoint(servers: ServerPair): Promise<void> {
  await Promise.all(
    [servers.source, servers.target].map(async ({ admin }) => admin.query('CHECKPOINT')),
  );
}

/** A session in a database, for the length of `work`. */
export async function inDatabase<T>(
  endpoint: Endpoint,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  await using session = await openSession(endpoint, { applicationName: 'bench' });
  return await work(session);
}

/** For programs that take URLs. The password travels in the environment. */
export function urlWithoutPassword({ user, host, port, database }: Endpoint): string {
  return `postgres://${user}@${host}:${port}/${database}`;
}

/** Both servers have the same one. */
export function passwordOf({ password }: Endpoint): Readonly<Record<string, string>> {
  return { PGPASSWORD: password ?? '' };
}
