import { once } from 'node:events';
import { Socket, type SocketConstructorOpts } from 'node:net';
import { connect as connectTls } from 'node:tls';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { assertNever } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { sslRequest } from '#src/wire/postgres/frontend.ts';

import { ByteChannel, SOCKET_BUFFER_BYTES } from './byte-channel.ts';
import { connectionError, sqlstateOf } from './server-error.ts';
import { tlsOptions } from './tls.ts';

/**
 * Sockets to a server, encrypted as `sslmode` says. The order of attempts is libpq's:
 *
 *     disable        plain
 *     allow          plain; if the server refuses it (28000): TLS
 *     prefer         TLS if the server offers it, else plain; if TLS fails: plain
 *     require, …     TLS
 *
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
 */
type Encryption = 'plain' | 'tlsIfOffered' | 'tls';

const KEEPALIVE_IDLE_MS = 10_000;
const REFUSED = '28000';
/** Options of a stream, which the types of Socket and TLSSocket do not list. */
type Buffering = SocketConstructorOpts & {
  readonly readableHighWaterMark: number;
  readonly writableHighWaterMark: number;
};

function buffering(readAheadBytes: number): Buffering {
  return { readableHighWaterMark: readAheadBytes, writableHighWaterMark: SOCKET_BUFFER_BYTES };
}

function attemptsOf(endpoint: Endpoint): readonly [Encryption, ...Encryption[]] {
  // Over a Unix-domain socket there is no TLS, and libpq ignores sslmode.
  if (isUnixSocket(endpoint)) return ['plain'];
  switch (endpoint.sslMode) {
    case 'disable':
      return ['plain'];
    case 'allow':
      return ['plain', 'tls'];
    case 'prefer':
      return ['tlsIfOffered', 'plain'];
    case 'require':
    case 'verify-ca':
    case 'verify-full':
      return ['tls'];
    default:
      return assertNever(endpoint.sslMode);
  }
}

/**
 * Connect and run `start` (the startup phase) on the socket, within the endpoint's timeout, which covers
 * all attempts. `start` owns the socket when it returns; when it throws, the socket is destroyed. Up to
 * `readAheadBytes` are taken from the system before anybody asks for them.
 *
 * Throws CONNECTION_FAILED, TLS_FAILED, PROTOCOL_VIOLATION, or what `start` throws.
 */
export async function connectEndpoint<T>(
  endpoint: Endpoint,
  start: (socket: Socket) => Promise<T>,
  readAheadBytes: number = SOCKET_BUFFER_BYTES,
): Promise<T> {
  const deadline = connectDeadline(endpoint);
  const [first, second] = attemptsOf(endpoint);
  try {
    return await attempt({ endpoint, encryption: first, start, deadline, readAheadBytes });
  } catch (error) {
    if (second === undefined || !isWorthAnother(error, first)) throw error;
    try {
      return await attempt({ endpoint, encryption: second, start, deadline, readAheadBytes });
    } catch (secondError) {
      // The second failure is the news, unless it only says that this way is closed, too.
      throw isWorthAnother(secondError, second) ? error : secondError;
    }
  }
}

function isWorthAnother(error: unknown, encryption: Encryption): boolean {
  if (sqlstateOf(error) === REFUSED) return true;
  return encryption !== 'plain' && error instanceof OperatorError && error.code === 'TLS_FAILED';
}

/** Aborts with the error to report. No deadline for a timeout of 0, as in libpq. */
function connectDeadline(endpoint: Endpoint): AbortSignal | undefined {
  const { connectTimeoutMs } = endpoint;
  return connectTimeoutMs > 0 ? AbortSignal.timeout(connectTimeoutMs) : undefined;
}

async function attempt<T>(parts: {
  endpoint: Endpoint;
  encryption: Encryption;
  start: (socket: Socket) => Promise<T>;
  deadline: AbortSignal | undefined;
  readAheadBytes: number;
}): Promise<T> {
  const { endpoint, encryption, start, deadline, readAheadBytes } = parts;
  const tcp = openTcp(endpoint, readAheadBytes);
  // Destroying the socket ends whatever waits for it, here and in the libraries that use it.
  const expire = (): void => {
    tcp.destroy(timeoutError(endpoint));
  };
  if (deadline?.aborted === true) expire();
  deadline?.addEventListener('abort', expire);
  try {
    await once(tcp, 'connect');
    const socket =
      encryption === 'plain' ? tcp : await encrypt(tcp, endpoint, { encryption, readAheadBytes });
    return await start(socket);
  } catch (error) {
    tcp.destroy();
    throw deadline?.aborted === true ? timeoutError(endpoint) : connectionError(endpoint, error);
  } finally {
    deadline?.removeEventListener('abort', expire);
  }
}

function openTcp(endpoint: Endpoint, readAheadBytes: number): Socket {
  const { host, port } = endpoint;
  const options = isUnixSocket(endpoint) ? { path: `${host}/.s.PGSQL.${port}` } : { host, port };
  const socket = new Socket(buffering(readAheadBytes));
  // Not as options of connect(), which only a socket that connect() itself creates obeys: without
  // TCP_NODELAY the end of each COPY waits 40 ms for a delayed acknowledgement.
  if (!isUnixSocket(endpoint)) {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_IDLE_MS);
  }
  // Between two owners nobody may listen; an error without a listener would end the process.
  socket.on('error', () => undefined);
  return socket.connect(options);
}

async function encrypt(
  tcp: Socket,
  endpoint: Endpoint,
  how: { readonly encryption: 'tls' | 'tlsIfOffered'; readonly readAheadBytes: number },
): Promise<Socket> {
  const { encryption, readAheadBytes } = how;
  const options = tlsOptions(endpoint);
  if (!(await isTlsOffered(tcp, endpoint))) {
    if (encryption === 'tlsIfOffered') return tcp;
    throw new OperatorError('TLS_FAILED', `${describeEndpoint(endpoint)} does not support TLS`);
  }
  const secure = connectTls({ ...options, socket: tcp, ...buffering(readAheadBytes) });
  secure.on('error', () => undefined);
  try {
    await once(secure, 'secureConnect');
    return secure;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new OperatorError('TLS_FAILED', `no TLS with ${describeEndpoint(endpoint)}: ${reason}`, {
      cause,
    });
  }
}

async function isTlsOffered(tcp: Socket, endpoint: Endpoint): Promise<boolean> {
  const channel = new ByteChannel(tcp);
  await channel.write(sslRequest());
  const answer = await channel.read();
  channel.release();
  const where = describeEndpoint(endpoint);
  switch (answer?.toString('latin1')) {
    case 'S':
      return true;
    case 'N':
      return false;
    case undefined:
      throw new OperatorError('CONNECTION_FAILED', `${where} closed the connection`);
    default:
      // More than one byte would be plain text that is later taken for encrypted (CVE-2021-23214);
      // an error at this point comes from nobody who can be believed (CVE-2024-10977).
      throw new OperatorError('PROTOCOL_VIOLATION', `${where} did not answer the request for TLS`);
  }
}

function isUnixSocket(endpoint: Endpoint): boolean {
  return endpoint.host.startsWith('/');
}

function timeoutError(endpoint: Endpoint): OperatorError {
  return new OperatorError(
    'CONNECTION_FAILED',
    `${describeEndpoint(endpoint)} did not answer within ${endpoint.connectTimeoutMs / 1000} s`,
  );
}
