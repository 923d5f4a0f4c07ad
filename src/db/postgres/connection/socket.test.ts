import { createServer, type Server, type Socket } from 'node:net';

import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { MessageWriter } from '#src/wire/postgres/message-writer.ts';

import { openSession } from './session.ts';
import { openWireConnection } from './wire-connection.ts';

const OPTIONS = { applicationName: 'understudy test' };

/** A server that hands every connection to `serve`. */
async function listen(
  serve: (socket: Socket) => void,
): Promise<AsyncDisposable & { readonly endpoint: Endpoint }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    endpoint: {
      host: '127.0.0.1',
      port,
      database: 'd',
      user: 'u',
      password: 'secret',
      sslMode: 'disable',
      sslRootCert: undefined,
      sslCert: undefined,
      sslKey: undefined,
      connectTimeoutMs: 10_000,
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function message(tag: string, write: (writer: MessageWriter) => void): Buffer {
  const writer = new MessageWriter(64).begin(tag.charCodeAt(0));
  write(writer);
  return writer.end().take();
}

const authentication = (code: number, data = ''): Buffer =>
  message('R', (writer) => writer.int32(code).text(data));
const ready = message('Z', (writer) => writer.int8(0x49));

/** Answers the n-th message of the client with the n-th answer. */
function answering(...answers: readonly (Buffer | string)[]) {
  return (socket: Socket): void => {
    let next = 0;
    socket.on('data', () => socket.write(answers[next++] ?? ''));
  };
}

/** Short only where it may be what ends the attempt. */
function timeoutMs(code: string): number {
  return code === 'CONNECTION_FAILED' ? 400 : 10_000;
}

const BEFORE_STARTUP: readonly [string, Endpoint['sslMode'], (socket: Socket) => void, string][] = [
  ['never answers', 'disable', () => undefined, 'CONNECTION_FAILED'],
  ['never answers the request for TLS', 'require', () => undefined, 'CONNECTION_FAILED'],
  ['never answers under prefer', 'prefer', () => undefined, 'CONNECTION_FAILED'],
  ['closes at once', 'disable', (socket) => socket.destroy(), 'CONNECTION_FAILED'],
  ['ends at once', 'prefer', (socket) => socket.end(), 'CONNECTION_FAILED'],
  ['sends HTTP', 'require', answering('HTTP/1.1 400 Bad Request\r\n\r\n'), 'PROTOCOL_VIOLATION'],
  [
    'sends an error for TLS',
    'require',
    answering(message('E', (w) => w.cstring('Mlies'))),
    'PROTOCOL_VIOLATION',
  ],
  // CVE-2021-23214: what follows in plain text would later be taken for encrypted.
  ['buffers bytes behind S', 'require', answering('S\0'), 'PROTOCOL_VIOLATION'],
  ['says S and speaks no TLS', 'require', answering('S', 'nonsense'), 'TLS_FAILED'],
  ['says S and nothing more', 'require', answering('S'), 'CONNECTION_FAILED'],
  ['knows no TLS', 'require', answering('N'), 'TLS_FAILED'],
];

for (const [what, sslMode, serve, code] of BEFORE_STARTUP) {
  test(`a server that ${what} under sslmode=${sslMode} fails both kinds of connection`, async () => {
    await using server = await listen(serve);
    const endpoint = { ...server.endpoint, sslMode, connectTimeoutMs: timeoutMs(code) };
    await expect(openWireConnection(endpoint, OPTIONS)).rejects.toMatchObject({ code });
    await expect(openSession(endpoint, OPTIONS)).rejects.toMatchObject({ code });
  });
}

const DURING_STARTUP: readonly [string, (socket: Socket) => void, string][] = [
  ['sends HTTP', answering('HTTP/1.1 400 Bad Request\r\n\r\n'), 'PROTOCOL_VIOLATION'],
  [
    'claims a long message',
    answering(Buffer.from('R\x7f\xff\xff\xff', 'latin1')),
    'PROTOCOL_VIOLATION',
  ],
  ['sends rows first', answering(message('D', (w) => w.int16(0))), 'PROTOCOL_VIOLATION'],
  ['skips authentication', answering(ready), 'PROTOCOL_VIOLATION'],
  ['asks for Kerberos', answering(authentication(7)), 'AUTHENTICATION_FAILED'],
  ['knows only strange SASL', answering(authentication(10, 'X\0\0')), 'AUTHENTICATION_FAILED'],
  // A server that does not know the password must not be able to say "ok" half-way.
  [
    'ends SCRAM early',
    answering(authentication(10, 'SCRAM-SHA-256\0\0'), Buffer.concat([authentication(0), ready])),
    'PROTOCOL_VIOLATION',
  ],
  [
    'reflects a false nonce',
    answering(authentication(10, 'SCRAM-SHA-256\0\0'), authentication(11, 'r=x,s=QUJD,i=1')),
    'PROTOCOL_VIOLATION',
  ],
  [
    'continues SCRAM out of turn',
    answering(authentication(11, 'r=x,s=QUJD,i=1')),
    'PROTOCOL_VIOLATION',
  ],
  ['ends SCRAM out of turn', answering(authentication(12, 'v=QUJD')), 'AUTHENTICATION_FAILED'],
  ['stops in the middle', answering(authentication(0)), 'CONNECTION_FAILED'],
];

for (const [what, serve, code] of DURING_STARTUP) {
  test(`a server that ${what} fails both kinds of connection`, async () => {
    await using server = await listen(serve);
    const endpoint = { ...server.endpoint, connectTimeoutMs: timeoutMs(code) };
    await expect(openWireConnection(endpoint, OPTIONS)).rejects.toMatchObject({ code });
    await expect(openSession(endpoint, OPTIONS)).rejects.toMatchObject({ code });
  });
}

test('nobody listening, and a name that does not exist, are CONNECTION_FAILED with the reason', async () => {
  let endpoint: Endpoint;
  {
    await using server = await listen(() => undefined);
    ({ endpoint } = server);
  }
  const closed = { code: 'CONNECTION_FAILED', message: expect.stringContaining('ECONNREFUSED') };
  await expect(openWireConnection(endpoint, OPTIONS)).rejects.toMatchObject(closed);
  await expect(openSession(endpoint, OPTIONS)).rejects.toMatchObject(closed);
  await expect(
    openWireConnection({ ...endpoint, host: '/nowhere' }, OPTIONS),
  ).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
});
