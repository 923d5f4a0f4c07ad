import { once } from 'node:events';
import { createServer } from 'node:net';

import { expect, test, vi } from 'vitest';

import { parseLines, startCommand } from '#test/command.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

/** A server that takes connections and never says a word. */
async function listenSilently() {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    url: `postgres://me:secret@127.0.0.1:${address.port}/db`,
    connected: once(server, 'connection'),
    [Symbol.dispose]: () => void server.close(),
  };
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s ends a command with 130',
  async (signal) => {
    using server = await listenSilently();
    await using check = startCommand(['check', '--source', server.url, '--target', server.url]);
    await server.connected;
    check.kill(signal);
    expect(await check.ended).toEqual({
      code: 130,
      stdout: '',
      stderr: 'interrupted: nothing was changed.\n',
    });
  },
);

test('with --json an interrupt is one line', async () => {
  using server = await listenSilently();
  const urls = ['--source', server.url, '--target', server.url];
  await using check = startCommand(['check', ...urls, '--json']);
  await server.connected;
  check.kill('SIGINT');
  const { code, stdout, stderr } = await check.ended;
  expect([code, stderr]).toEqual([130, '']);
  expect(parseLines(stdout)).toEqual([
    { type: 'interrupted', hint: 'nothing was changed.', time: expect.any(String) },
  ]);
});

test('a reader that leaves ends the command without a word', async () => {
  using server = await listenSilently();
  await using check = startCommand(['check', '--source', server.url, '--target', server.url]);
  await server.connected;
  check.closeOutput();
  check.kill('SIGINT');
  expect((await check.ended).code).toBe(130);

  await using help = startCommand(['--help']);
  help.closeOutput();
  const { stderr } = await help.ended;
  expect(stderr).toBe('');
});
