import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';

import { type FaultProxy, startFaultProxy } from './fault-proxy.ts';

/** A server that keeps what it gets, and one client of it through a proxy. */
async function createLink() {
  await using owned = new AsyncDisposableStack();
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer({ allowHalfOpen: true }, accepted.resolve).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  const endpoint: Endpoint = {
    host: '127.0.0.1',
    port,
    database: 'none',
    user: 'none',
    password: undefined,
    sslMode: 'disable',
    sslRootCert: undefined,
    sslCert: undefined,
    sslKey: undefined,
    connectTimeoutMs: 1000,
  };
  owned.defer(() => void server.close());
  const proxy: FaultProxy = owned.use(await startFaultProxy(endpoint));
  const client = peer(connect({ port: proxy.endpoint.port, allowHalfOpen: true }));
  const startup = Buffer.from(
    '????\0\x03\0\0user\0me\0application_name\0understudy test apply\0\0',
  );
  client.socket.write(startup);
  const end = peer(await accepted.promise);
  await end.has(startup.length);
  owned.defer(() => void client.socket.destroy());
  owned.defer(() => void end.socket.destroy());
  const all = owned.move();
  return {
    proxy,
    client,
    server: end,
    startup: startup.length,
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}

async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await new Promise((resolve) => setTimeout(resolve, 2));
}

function peer(socket: Socket) {
  let got = Buffer.alloc(0);
  const state: { end: 'open' | 'end' | 'reset' } = { end: 'open' };
  socket.on('data', (chunk: Buffer) => (got = Buffer.concat([got, chunk])));
  socket.on('end', () => (state.end = 'end'));
  socket.on('error', () => (state.end = 'reset'));
  return {
    socket,
    text: () => got.toString('latin1'),
    has: async (bytes: number) => until(() => got.length >= bytes),
    ended: async () => until(() => state.end !== 'open').then(() => state.end),
    isOpen: () => state.end === 'open',
  };
}

test('without a fault every byte and the end of each direction pass', async () => {
  await using link = await createLink();
  const large = Buffer.alloc(2_000_000, 'abcdefg');
  link.server.socket.write(large);
  await link.client.has(large.length);
  expect(link.client.text()).toBe(large.toString('latin1'));
  expect(link.proxy.links()).toEqual(['understudy test apply']);
  link.client.socket.end('last');
  expect(await link.server.ended()).toBe('end');
  expect(link.server.text().endsWith('last')).toBe(true);
  // The other direction is still open.
  link.server.socket.end('answer');
  expect(await link.client.ended()).toBe('end');
  expect(link.client.text().endsWith('answer')).toBe(true);
});

test('a reset breaks both ends, an end closes both in order', async () => {
  await using broken = await createLink();
  broken.proxy.inject({ kind: 'reset', links: /apply$/ });
  expect([await broken.client.ended(), await broken.server.ended()]).toEqual(['reset', 'reset']);
  await using closed = await createLink();
  closed.proxy.inject({ kind: 'end' });
  expect([await closed.client.ended(), await closed.server.ended()]).toEqual(['end', 'end']);
});

test('a fault is for the links that it names', async () => {
  await using link = await createLink();
  link.proxy.inject({ kind: 'reset', links: /control$/ });
  link.client.socket.write('on');
  await link.server.has(link.startup + 2);
  expect(link.client.isOpen()).toBe(true);
});

test('an abandoned link is reset for the client, and the server does not know', async () => {
  await using link = await createLink();
  link.proxy.inject({ kind: 'abandon' });
  expect(await link.client.ended()).toBe('reset');
  link.server.socket.write('is anybody there?');
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(link.server.isOpen()).toBe(true);
});

test('a blackhole swallows one direction, and the link is broken once it is gone', async () => {
  await using link = await createLink();
  const hole = link.proxy.inject({ kind: 'blackhole', direction: 'toClient' });
  link.server.socket.write('never seen');
  link.client.socket.write('seen');
  await link.server.has(link.startup + 4);
  expect(link.client.text()).toBe('');
  hole[Symbol.dispose]();
  expect(await link.client.ended()).toBe('reset');
});

test('a delay is one of each byte, and not of each chunk', async () => {
  await using link = await createLink();
  link.proxy.inject({ kind: 'delay', ms: 100, direction: 'toServer' });
  const startedMs = performance.now();
  for (let i = 0; i < 20; i += 1) {
    link.client.socket.write('x');
    await new Promise((resolve) => setImmediate(resolve));
  }
  await link.server.has(link.startup + 20);
  expect(performance.now() - startedMs).toBeGreaterThan(95);
  expect(performance.now() - startedMs).toBeLessThan(1500);
});

test('a throttle lets so many bytes a second pass, all of them in the end', async () => {
  await using link = await createLink();
  link.proxy.inject({ kind: 'throttle', bytesPerSecond: 100_000, direction: 'toServer' });
  const startedMs = performance.now();
  link.client.socket.end(Buffer.alloc(30_000, 'y'));
  expect(await link.server.ended()).toBe('end');
  expect(link.server.text().length).toBe(link.startup + 30_000);
  expect(performance.now() - startedMs).toBeGreaterThan(250);
});

test.each([0, 1, 7, 4095])(
  'a link that is cut after %i bytes lets just these pass',
  async (bytes) => {
    await using link = await createLink();
    link.proxy.inject({ kind: 'cutAfter', bytes, direction: 'toServer' });
    link.client.socket.write(Buffer.alloc(bytes, 'z'));
    await link.server.has(link.startup + bytes);
    link.client.socket.write('past the end');
    expect(await link.client.ended()).toBe('reset');
    expect(link.server.text().length).toBe(link.startup + bytes);
  },
);

test('a text that passes calls what waits for it, before it has passed', async () => {
  await using link = await createLink();
  link.proxy.onText({ links: /apply$/, direction: 'toServer', text: 'COMMIT' }, () => {
    link.proxy.inject({ kind: 'blackhole', direction: 'toClient' });
  });
  link.client.socket.write('BEGIN; COMMIT');
  await link.server.has(link.startup + 13);
  link.server.socket.write('done');
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(link.client.text()).toBe('');
  link.proxy.heal();
  expect(await link.client.ended()).toBe('reset');
});

test('a network that refuses ends new connections at once, until it is healed', async () => {
  await using link = await createLink();
  link.proxy.inject({ kind: 'refuse' });
  const refused = peer(connect({ port: link.proxy.endpoint.port }));
  expect(await refused.ended()).toMatch(/^(reset|end)$/);
  link.proxy.heal();
  link.client.socket.write('still here');
  await link.server.has(link.startup + 10);
});
