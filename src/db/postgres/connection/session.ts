import type { Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';

import { Client, DatabaseError } from 'pg';

import type { Endpoint } from '#src/core/endpoint.ts';

import { adoptSocket } from './adopted-socket.ts';
import { ByteChannel } from './byte-channel.ts';
import { driverError, lostError, statementError } from './server-error.ts';
import { PIN_LATE_SETTINGS } from './settings.ts';
import { connectEndpoint } from './socket.ts';
import { startUp, startupParameters } from './startup.ts';

/** Every value as the text that the server printed; null is SQL NULL. */
export type Row = Readonly<Record<string, string | null>>;
export type Parameter = string | number | bigint | boolean | null | readonly string[];

/** How long a server has to notice our goodbye before the socket is torn down. */
const GOODBYE_MS = 1_000;

/** For `answerMsMax`, where the receiver's watchdog would give up, too. */
export const ANSWER_MS_MAX = 60_000;

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
    /**
     * For sessions of short statements only: one that is not answered by then throws CONNECTION_LOST and
     * ends the session. Bytes that are under way keep a dead network unnoticed for a quarter of an hour.
     */
    readonly answerMsMax?: number;
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
      socket,
      endpoint,
      lost,
      serverVersion: Number(rows[0].server_version_num),
      answerMsMax: options.answerMsMax,
    });
  });
}

function makeSession(parts: {
  client: Client;
  socket: Socket;
  endpoint: Endpoint;
  lost: Promise<Error>;
  serverVersion: number;
  answerMsMax: number | undefined;
}): Session {
  const { client, socket, endpoint, lost, serverVersion, answerMsMax } = parts;
  const run = async (sql: string, parameters: readonly Parameter[] = []) => {
    const limit = new AbortController();
    if (answerMsMax !== undefined) endWhenSilent(client, answerMsMax, limit.signal);
    try {
      return await client.query(sql, parameters.length === 0 ? undefined : [...parameters]);
    } catch (error) {
      if (error instanceof DatabaseError) throw statementError(endpoint, sql, driverError(error));
      throw lostError(endpoint, error);
    } finally {
      limit.abort();
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
      const closed = client.end().catch(() => undefined);
      // A server behind a dead network does not answer.
      await Promise.race([closed, wait(GOODBYE_MS, undefined, { ref: false })]);
      socket.destroy();
    },
  };
}

/** The statement under way then fails, and everything that waits behind it. */
function endWhenSilent(client: Client, answerMsMax: number, answered: AbortSignal): void {
  wait(answerMsMax, undefined, { signal: answered, ref: false })
    // With a statement under way this is no goodbye, for which a dead network would be waited for.
    .then(() => client.end())
    .catch(() => undefined);
}
