import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { TLSSocket } from 'node:tls';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';
import {
  BACKEND,
  type Body,
  type CopyResponse,
  decodeCommandComplete,
  decodeCopyResponse,
  decodeDataRow,
  decodeParameterStatus,
  decodeRowDescription,
  decodeServerMessage,
} from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import {
  cancelRequest,
  copyFail,
  queryMessage,
  terminateMessage,
} from '#src/wire/postgres/frontend.ts';

import { ByteChannel } from './byte-channel.ts';
import { lostError, statementError } from './server-error.ts';
import { PIN_LATE_SETTINGS } from './settings.ts';
import { connectEndpoint } from './socket.ts';
import { type Backend, startUp, type StartupOptions, startupParameters } from './startup.ts';

/** How long a server has to notice our goodbye before the socket is torn down. */
const GOODBYE_MS = 1000;

export type WireResult = {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
  /** Such as `SELECT 1`. */
  readonly commandTag: string;
};

export type CopyStart = CopyResponse & { readonly direction: 'in' | 'out' | 'both' };

/**
 * Open a connection for what must not be parsed into rows, with pinned settings (trap 6).
 *
 * Throws CONNECTION_FAILED, AUTHENTICATION_FAILED, DATABASE_MISSING, PRIVILEGE_MISSING, TLS_FAILED or
 * PROTOCOL_VIOLATION.
 */
export async function openWireConnection(
  endpoint: Endpoint,
  options: StartupOptions,
): Promise<WireConnection> {
  const parameters = startupParameters(endpoint, options);
  const start = async (socket: Socket): Promise<WireConnection> => {
    const channel = new ByteChannel(socket);
    const backend = await startUp({ channel, socket, endpoint, parameters });
    const connection = new WireConnection({ endpoint, socket, channel, backend });
    if (connection.serverMajor >= 17) await connection.query(PIN_LATE_SETTINGS);
    return connection;
  };
  // A reader of a stream that waits on purpose must not have the system drained behind its back: the
  // walsender would be woken for each change (receiver.ts).
  return options.replication === true
    ? connectEndpoint(endpoint, start, REPLICATION_READ_AHEAD_BYTES)
    : connectEndpoint(endpoint, start);
}

const REPLICATION_READ_AHEAD_BYTES = 1;

/**
 * One connection in the hands of one caller. Statements by the simple protocol (walsenders know no
 * other); COPY, replication and pipelined batches by raw bytes:
 *
 *     query(sql)                       everything up to ReadyForQuery; nothing is left unread
 *     beginCopy(sql) → read()/write()  the raw frames; hand back with unread() what is not of the copy
 *     write(batch) → readUntilReady()  results of a pipeline, or of a copy's end
 *
 * A server's error throws STATEMENT_FAILED, PRIVILEGE_MISSING or CONNECTION_LOST with `detail.sqlstate`,
 * once the connection is usable again. A connection that ends throws CONNECTION_LOST.
 */
export class WireConnection implements AsyncDisposable {
  readonly endpoint: Endpoint;
  /** The server process, as pg_stat_activity shows it. */
  readonly processId: number;
  /** What cancels this connection's statements: a secret. */
  readonly secretKey: Buffer;
  /** What the server reports by itself: server_version, client_encoding, ... */
  readonly parameters: ReadonlyMap<string, string>;

  readonly #socket: Socket;
  readonly #channel: ByteChannel;
  readonly #reported: Map<string, string>;
  /** The latest statement, for messages. */
  #sql = 'batch';

  constructor(parts: {
    endpoint: Endpoint;
    socket: Socket;
    channel: ByteChannel;
    backend: Backend;
  }) {
    this.endpoint = parts.endpoint;
    this.processId = parts.backend.processId;
    this.secretKey = parts.backend.secretKey;
    this.parameters = parts.backend.parameters;
    this.#reported = parts.backend.parameters;
    this.#socket = parts.socket;
    this.#channel = parts.channel;
  }

  /** Such as 14. */
  get serverMajor(): number {
    return Number.parseInt(this.parameters.get('server_version') ?? '', 10);
  }

  /** Run one statement, or several, of which every result is returned. */
  async query(sql: string): Promise<readonly WireResult[]> {
    this.#sql = sql;
    await this.write(queryMessage(sql));
    return this.readUntilReady();
  }

  /** Run a COPY or START_REPLICATION up to where its data begins. */
  async beginCopy(sql: string): Promise<CopyStart> {
    this.#sql = sql;
    await this.write(queryMessage(sql));
    const started = await this.#readResponse(true);
    if ('direction' in started) return started;
    throw this.#violation('answered a copy without data');
  }

  /**
   * Read up to ReadyForQuery: the results of a pipeline, or what follows a copy's data. Data of a copy
   * that nobody wants any more is skipped.
   */
  async readUntilReady(): Promise<readonly WireResult[]> {
    const results = await this.#readResponse(false);
    if ('direction' in results) throw this.#violation('began a copy that was not asked for');
    return results;
  }

  /** The next raw bytes, all that have arrived (at most 256 KB); undefined at the end of the stream. */
  async read(signal?: AbortSignal): Promise<Buffer | undefined> {
    try {
      return await this.#channel.read(signal);
    } catch (error) {
      if (signal?.aborted === true) throw error;
      throw lostError(this.endpoint, error);
    }
  }

  /** What has arrived, without waiting. */
  tryRead(): Buffer | undefined {
    return this.#channel.tryRead();
  }

  /** Give back raw bytes, to be read first. At most once between two reads. */
  unread(bytes: Buffer): void {
    this.#channel.unread(bytes);
  }

  /**
   * Send raw bytes; resolves when the socket takes more, at once unless 256 KB wait to be sent. The
   * memory must not change afterwards.
   */
  write(bytes: Buffer | readonly Buffer[]): Promise<void> {
    return this.#channel.write(bytes).catch((error: unknown) => {
      throw lostError(this.endpoint, error);
    });
  }

  /** An ErrorResponse that came by raw reading, as the error to throw. */
  readError(body: Body): OperatorError {
    return statementError(this.endpoint, this.#sql, decodeServerMessage(body));
  }

  /** Ask the server to cancel what runs; resolves when it has taken notice. Nothing says whether it helped. */
  async cancel(): Promise<void> {
    const sslMode = this.#socket instanceof TLSSocket ? this.#tlsMode() : 'disable';
    await connectEndpoint({ ...this.endpoint, sslMode }, async (socket) => {
      const channel = new ByteChannel(socket);
      await channel.write(cancelRequest(this.processId, this.secretKey));
      // The server answers by closing. A reset is as good: the request was sent on its own.
      while ((await channel.read().catch(() => undefined)) !== undefined);
      socket.destroy();
    });
  }

  /** End the connection at once, without a word to the server. What is under way throws `cause`, if that is ours. */
  destroy(cause?: OperatorError): void {
    this.#socket.destroy(cause);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed) return;
    const closed = once(socket, 'close').catch(() => undefined);
    this.#channel.release();
    socket.on('error', () => undefined);
    socket.end(terminateMessage());
    // Input is thrown away, so that the server's end is seen behind it.
    socket.resume();
    await Promise.race([closed, wait(GOODBYE_MS, undefined, { ref: false })]);
    socket.destroy();
  }

  #tlsMode(): Endpoint['sslMode'] {
    const { sslMode } = this.endpoint;
    return sslMode.startsWith('verify') ? sslMode : 'require';
  }

  async #readResponse(isCopyExpected: boolean): Promise<readonly WireResult[] | CopyStart> {
    const walker = new FrameWalker();
    const collector = new ResultCollector();
    let failure: OperatorError | undefined;
    for (;;) {
      while (walker.next()) {
        switch (walker.tag) {
          case BACKEND.readyForQuery:
            this.unread(walker.rest());
            if (failure !== undefined) throw failure;
            return collector.results;
          case BACKEND.errorResponse:
            failure ??= this.readError(walker);
            break;
          case BACKEND.parameterStatus: {
            const { name, value } = decodeParameterStatus(walker);
            this.#reported.set(name, value);
            break;
          }
          case BACKEND.copyInResponse:
          case BACKEND.copyOutResponse:
          case BACKEND.copyBothResponse:
            if (isCopyExpected) {
              this.unread(walker.rest());
              return { direction: COPY_DIRECTIONS[walker.tag], ...decodeCopyResponse(walker) };
            }
            // Nobody would ever send the data that the server waits for.
            if (walker.tag === BACKEND.copyInResponse) await this.write(copyFail('no data'));
            if (walker.tag === BACKEND.copyBothResponse) throw this.#violation('began to stream');
            break;
          default:
            collector.push(walker);
        }
      }
      const chunk = await this.read();
      if (chunk === undefined) throw failure ?? lostError(this.endpoint);
      walker.feed(chunk);
    }
  }

  #violation(what: string): OperatorError {
    this.destroy();
    return new OperatorError('PROTOCOL_VIOLATION', `${describeEndpoint(this.endpoint)} ${what}`);
  }
}

const COPY_DIRECTIONS = {
  [BACKEND.copyInResponse]: 'in',
  [BACKEND.copyOutResponse]: 'out',
  [BACKEND.copyBothResponse]: 'both',
} as const;

/** Puts rows and command tags together to results. Messages without meaning for that are passed over. */
class ResultCollector {
  readonly results: WireResult[] = [];
  #columns: readonly string[] = [];
  #rows: (readonly (string | null)[])[] = [];

  push(frame: Body & { readonly tag: number }): void {
    if (frame.tag === BACKEND.rowDescription) this.#columns = decodeRowDescription(frame);
    else if (frame.tag === BACKEND.dataRow) this.#rows.push(decodeDataRow(frame));
    else if (frame.tag === BACKEND.commandComplete) this.#finish(decodeCommandComplete(frame));
  }

  #finish(commandTag: string): void {
    this.results.push({ columns: this.#columns, rows: this.#rows, commandTag });
    this.#columns = [];
    this.#rows = [];
  }
}
