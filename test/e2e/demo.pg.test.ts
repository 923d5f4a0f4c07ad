import { existsSync } from 'node:fs';

import { expect, test, vi } from 'vitest';

import { openSession } from '#src/db/postgres/session.ts';
import { parseLines, type RunningCommand, runCommand, startCommand } from '#test/command.ts';

/** Where the demo's servers listen and what they leave on disk, as they tell it themselves. */
async function serversOf(demo: RunningCommand): Promise<{ port: number; directory: string }[]> {
  return Promise.all(
    ['production', 'shadow'].map(async (role) => {
      const line = await demo.waitFor(new RegExp(`"serverStarted","role":"${role}"`));
      const url = new URL(JSON.parse(line).url);
      await using session = await openSession(
        {
          host: url.hostname,
          port: Number(url.port),
          database: url.pathname.slice(1),
          user: url.username,
          password: url.password,
          sslMode: 'disable',
          sslRootCert: undefined,
          sslCert: undefined,
          sslKey: undefined,
          connectTimeoutMs: 5000,
        },
        { applicationName: 'understudy test' },
      );
      const [row] = await session.query(`SELECT current_setting('data_directory') AS directory`);
      return { port: Number(url.port), directory: row!['directory']! };
    }),
  );
}

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'nothing of the demo is left after %s',
  async (signal) => {
    await using demo = startCommand(['demo', '--json']);
    const servers = await serversOf(demo);
    expect(servers.map(({ directory }) => existsSync(directory))).toEqual([true, true]);
    demo.kill(signal);
    await demo.ended;
    await vi.waitUntil(() => servers.every(({ directory }) => !existsSync(directory)), {
      timeout: 20_000,
    });
    for (const { port } of servers) {
      await expect(fetch(`http://127.0.0.1:${port}`)).rejects.toMatchObject({
        cause: { code: 'ECONNREFUSED' },
      });
    }
  },
);

test('the demo ends by itself once its shadow has verified clean under load', async () => {
  const { code, stdout, stderr } = await runCommand(['demo', '--once', '--json']);
  expect([code, stderr]).toEqual([0, '']);
  const lines = parseLines(stdout);
  expect(lines.filter(({ type }) => type === 'verified')).toMatchObject([
    { scope: 'full', lsn: expect.any(String), tables: 29, differences: 0, unverified: [] },
  ]);
  expect(lines.at(-1)).toMatchObject({ type: 'demoFinished', isClean: true, failed: 0 });
  expect(Number(lines.at(-1)!['transactions'])).toBeGreaterThan(100);
}, 180_000);
