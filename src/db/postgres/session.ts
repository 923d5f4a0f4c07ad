import { Client, DatabaseError } from 'pg';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { connectionError, statementError } from './server-error.ts';
import { PINNED_SETTINGS, startupOptions } from './settings.ts';
import { resolveTls } from './tls.ts';

/** Every value as the text that the server printed; null is SQL NULL. */
export type Row = Readonly<Record<string, string | null>>;
export type Parameter = string | number | bigint | boolean | null | readonly string[];

/** One connection for ordinary statements: catalog, ledger, verification. Bulk data goes over WireConnection. */
export type Session = AsyncDisposable & {
  readonly endpoint: Endpoint;
  /** The server process, as pg_stat_activity shows it. */
  readonly processId: number;
  /** `server_version_num`, such as 140023. */
  readonly serverVersion: number;
  /** One statement with parameters, or several without. Rows of the last one. */
  readonly query: (sql: string, parameters?: readonly Parameter[]) => Promise<readonly Row[]>;
  /** As `query`; the number of rows that the statement touched. */
  readonly execute: (sql: string, parameters?: readonly Parameter[]) => Promise<number>;
  /** BEGIN … COMMIT, or ROLLBACK when `work` throws. `mode` follows BEGIN, such as `ISOLATION LEVEL REPEATABLE READ`. */
  readonly transaction: <T>(work: () => Promise<T>, mode?: string) => Promise<T>;
  /** Call `listener` for every NOTIFY on `channel` until the session closes. */
  readonly listen: (channel: string, listener: (payload: string) => void) => Promise<void>;
  /** Resolves with the cause when the connection ends other than by our own close. */
  readonly lost: Promise<Error>;
};

/**
 * Open a session with pinned settings (trap 6).
 *
 * Throws CONNECTION_FAILED, AUTHENTICATION_FAILED, DATABASE_MISSING or TLS_FAILED. Its statements throw
 * CONNECTION_LOST, PRIVILEGE_MISSING or STATEMENT_FAILED, the last with `detail.sqlstate`.
 */
export async function openSession(
  endpoint: Endpoint,
  options: {
    readonly applicationName: string;
    readonly settings?: Readonly<Record<string, string>>;
  },
): Promise<Session> {
  const client = new Client({
    host: endpoint.host,
    port: endpoint.port,
    user: endpoint.user,
    database: endpoint.database,
    password: endpoint.password ?? '',
    ssl: await resolveTls(endpoint),
    application_name: options.applicationName,
    options: startupOptions({ ...PINNED_SETTINGS, ...options.settings }),
    connectionTimeoutMillis: endpoint.connectTimeoutMs,
    keepAlive: true,
    // Values stay text: a Date has no microseconds and a number no 64 bits.
    types: { getTypeParser: () => (text: string) => text },
  });
  const lost = new Promise<Error>((resolve) => {
    client.on('error', resolve);
  });
  try {
    await client.connect();
  } catch (error) {
    throw connectionError(endpoint, error);
  }
  const [version] = (await client.query('SHOW server_version_num')).rows;
  return makeSession({ client, endpoint, lost, serverVersion: Number(version.server_version_num) });
}

function makeSession(parts: {
  client: Client;
  endpoint: Endpoint;
  lost: Promise<Error>;
  serverVersion: number;
}): Session {
  const { client, endpoint, lost, serverVersion } = parts;
  const run = async (sql: string, parameters: readonly Parameter[] = []) => {
    try {
      return await client.query(sql, parameters.length === 0 ? undefined : [...parameters]);
    } catch (error) {
      if (error instanceof DatabaseError) throw statementError(endpoint, sql, error);
      throw new OperatorError(
        'CONNECTION_LOST',
        `connection to ${describeEndpoint(endpoint)} was lost`,
        { cause: error },
      );
    }
  };
  const query: Session['query'] = async (sql, parameters) => {
    const result: unknown = await run(sql, parameters);
    const last = Array.isArray(result) ? result.at(-1) : result;
    return last.rows;
  };
  return {
    endpoint,
    serverVersion,
    lost,
    processId: Number((client as Client & { processID?: number }).processID),
    query,
    execute: async (sql, parameters) => (await run(sql, parameters)).rowCount ?? 0,
    transaction: async (work, mode = '') => {
      await run(`BEGIN ${mode}`);
      try {
        const value = await work();
        await run('COMMIT');
        return value;
      } catch (error) {
        // The first failure is the one to report, also when the connection is gone by now.
        await run('ROLLBACK').catch(() => undefined);
        throw error;
      }
    },
    listen: async (channel, listener) => {
      client.on('notification', (message) => {
        if (message.channel === channel) listener(message.payload ?? '');
      });
      await run(`LISTEN ${channel}`);
    },
    async [Symbol.asyncDispose]() {
      await client.end().catch(() => undefined);
    },
  };
}
