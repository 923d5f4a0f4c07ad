import { chmod, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import type { Endpoint } from '#src/core/endpoint.ts';
import { startEmbeddedPostgres } from '#src/provision/embedded-postgres.ts';
import { createGuardedFolder } from '#src/provision/guarded-folder.ts';
import { SERVER_PASSWORD, type TestVersion } from '#test/servers.ts';

import { withClient } from './compare.ts';

/** A server of its own with one database, which can crash as a real one does. */
export type CrashServer = AsyncDisposable & {
  readonly endpoint: Endpoint;
  /** kill -9, and up again with what had reached its disk. */
  readonly crash: () => Promise<void>;
  /** An orderly restart, as for an upgrade. */
  readonly restart: () => Promise<void>;
  /** The postmaster first, then all that it has started. */
  readonly processes: () => Promise<readonly number[]>;
};

/**
 * A role that owns the database and may do no more than it must, so that progress is kept in a table
 * instead of a replication origin. Before 15 only a superuser may bypass triggers.
 */
export async function createPlainRole(endpoint: Endpoint): Promise<Endpoint> {
  const { database } = endpoint;
  await withClient(endpoint, async (client) =>
    client.query(`CREATE ROLE plain LOGIN PASSWORD 'zqpass';
                  GRANT SET ON PARAMETER session_replication_role TO plain;
                  ALTER DATABASE ${database} OWNER TO plain`),
  );
  return { ...endpoint, user: 'plain', password: 'zqpass' };
}

const SETTINGS = {
  shared_buffers: '32MB',
  max_connections: '60',
  // A crash must be real: what counts is on disk, and what does not is lost as often as possible.
  fsync: 'on',
  wal_writer_delay: '10s',
  wal_writer_flush_after: '1GB',
  logical_decoding_work_mem: '64kB',
};

export async function startCrashServer(
  version: TestVersion,
  database: string,
  sql = '',
  /** Where the database's files are, instead of the server's folder. */
  tablespace?: string,
): Promise<CrashServer> {
  const folder = await createGuardedFolder('understudy-crash-');
  await chmod(folder.path, 0o755);
  const options = {
    version,
    password: SERVER_PASSWORD,
    directory: join(folder.path, 'data'),
    settings: SETTINGS,
  };
  let server = await startEmbeddedPostgres(options);
  const { port } = server.endpoint;
  const again = async (): Promise<void> => {
    server = await startEmbeddedPostgres({ ...options, port });
  };
  await withClient(server.endpoint, async (client) => {
    if (tablespace !== undefined) {
      await client.query(`CREATE TABLESPACE own LOCATION '${tablespace}'`);
    }
    const where = tablespace === undefined ? '' : ' TABLESPACE own';
    await client.query(`CREATE DATABASE ${database}${where}`);
  });
  const endpoint = { ...server.endpoint, database };
  if (sql !== '') await withClient(endpoint, async (client) => client.query(sql));
  return {
    endpoint,
    processes: async () => [server.processId, ...(await childrenOf(server.processId))],
    crash: async () => {
      await server.kill9();
      await again();
    },
    restart: async () => {
      await server.stop();
      await again();
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** As Linux knows them; none elsewhere. */
async function childrenOf(processId: number): Promise<readonly number[]> {
  const path = `/proc/${processId}/task/${processId}/children`;
  const text = await readFile(path, 'utf8').catch(() => '');
  return text
    .split(' ')
    .filter((word) => word !== '')
    .map(Number);
}
