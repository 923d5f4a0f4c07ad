import { Client, DatabaseError } from 'pg';

import type { Endpoint } from '#src/core/endpoint.ts';

import { adoptSocket } from './adopted-socket.ts';
import { ByteChannel } from './byte-channel.ts';
import { lostError, statementError } from './server-error.ts';
import { PIN_LATE_SETTINGS } from './settings.ts';
import { connectEndpoint } from './socket.ts';
import { startUp, startupParameters } from './startup.ts';

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
 * Throws what `connectEndpoint` throws, AUTHENTICATION_FAILED, PRIVILEGE_MISSING or DATABASE_MISSING. Its statements throw
 * CONNECTION_LOST, PRIVILEGE_MISSING or STATEMENT_FAILED, the last with `detail.sqlstate`.
 */
export async function openSession(
  endpoint: Endpoint,
  options: {
    readonly applicationName: string;
    readonly settings?: Readonly<Record<string, string>>;
  },
): Promise<Session> {
  return connectEndpoint(endpoint, async (socket) => {
    const channel = new ByteChannel(socket);
    const parameters = startupParameters(endpoint, options);
    const backend = await startUp({ channel, socket, endpoint, parameters });
    const rest = channel.tryRead();
    channel.release();
    const client = new Client({
      stream: () => adoptSocket(socket, backend, rest),
      ssl: false,
      // Values stay text: a Date has no microseconds and a number no 64 bits.
      types: { getTypeParser: () => (text: string) => text },
    });
    const lost = new Promise<Error>((resolve) => {
      client.on('error', resolve);
    });
    await client.connect();
    const { rows } = await client.query('SHOW server_version_num');
    await client.query(PIN_LATE_SETTINGS);
    return makeSession({
      client,
      endpoint,
      lost,
      serverVersion: Number(rows[0].server_version_num),
    });
  });
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
      throw lostError(endpoint, error);
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
