import type { Endpoint } from '#src/core/endpoint.ts';
import { lostError } from '#src/db/postgres/connection/server-error.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { BACKEND, decodeServerMessage } from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import { encodeGreeting } from '#src/wire/postgres/greeting.ts';

/** The largest answer to one catalog query; that for a hundred thousand columns has about 20 MB. */
const REPLY_BYTES_MAX = 256 * 1024 * 1024;

const NO_KEY = { processId: 0, secretKey: Buffer.alloc(4) };

/** An authenticated connection whose messages somebody else writes and reads. */
export type DumpConnection = AsyncDisposable & {
  readonly endpoint: Endpoint;
  /** AuthenticationOk, the server's parameters, ReadyForQuery. */
  readonly greeting: Uint8Array;
  /** Send whole messages; everything that the server says up to ReadyForQuery. */
  readonly exchange: (messages: Uint8Array) => Promise<Uint8Array>;
  /** The SQLSTATE of the last error that went by. */
  readonly lastSqlstate: () => string | undefined;
  /** End at once, and what the server is doing, too: it may wait for a lock for hours. */
  readonly stop: () => Promise<void>;
};

/** Throws what `openWireConnection` throws; `exchange` CONNECTION_LOST and PROTOCOL_VIOLATION. */
export async function openDumpConnection(endpoint: Endpoint): Promise<DumpConnection> {
  const connection = await openWireConnection(endpoint, {
    applicationName: 'understudy schema dump',
    // pg_dump repeats the server's setting in its script; core/sql-statements.ts reads only this one.
    settings: { standard_conforming_strings: 'on' },
  });
  let sqlstate: string | undefined;
  return {
    endpoint,
    // Nobody cancels through libpq here, stopping closes the connection: the key stays with us.
    greeting: encodeGreeting({ ...NO_KEY, parameters: connection.parameters }),
    exchange: async (messages) => {
      await connection.write(Buffer.from(messages));
      return readReply(connection, (code) => {
        sqlstate = code;
      });
    },
    lastSqlstate: () => sqlstate,
    stop: async () => {
      connection.destroy();
      await connection.cancel();
    },
    [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose](),
  };
}

/** The pieces are joined once, so that a large reply costs one copy (trap 49). */
async function readReply(
  connection: WireConnection,
  onError: (sqlstate: string) => void,
): Promise<Uint8Array> {
  const walker = new FrameWalker();
  const pieces: Buffer[] = [];
  let bytes = 0;
  for (;;) {
    const piece = await connection.read();
    if (piece === undefined) throw lostError(connection.endpoint);
    walker.feed(piece);
    bytes += piece.length;
    if (bytes > REPLY_BYTES_MAX) {
      throw new OperatorError(
        'PROTOCOL_VIOLATION',
        `a reply of more than ${REPLY_BYTES_MAX} bytes`,
      );
    }
    while (walker.next()) {
      if (walker.tag === BACKEND.errorResponse) onError(decodeServerMessage(walker).code);
      if (walker.tag !== BACKEND.readyForQuery) continue;
      const rest = walker.rest();
      connection.unread(rest);
      pieces.push(piece.subarray(0, piece.length - rest.length));
      return Buffer.concat(pieces);
    }
    pieces.push(piece);
  }
}
