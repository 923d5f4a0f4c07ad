import { existsSync } from 'node:fs';
import { dirname } from 'node:path';

import { expect, test, vi } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { resolveEndpoint } from '#src/db/postgres/endpoint/endpoint.ts';
import { parseLines, type RunningCommand, runCommand, startCommand } from '#test/command.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 240_000 });

type DemoServer = { readonly endpoint: Endpoint; readonly directory: string };

/** Where the demo's servers listen and what they leave on disk, as they tell it themselves. */
async function serversOf(demo: RunningCommand): Promise<readonly DemoServer[]> {
  return Promise.all(
    ['production', 'shadow'].map(async (role) => {
      const line = await demo.waitFor(new RegExp(`"serverStarted","role":"${role}"`));
      const endpoint = resolveEndpoint(JSON.parse(line).url, {});
      const directory = await ask(endpoint, `SELECT current_setting('data_directory')`);
      return { endpoint, directory };
    }),
  );
}

async function ask(endpoint: Endpoint, sql: string): Promise<string> {
  await using session = await openSession(endpoint, { applicationName: 'understudy test' });
  return Object.values((await session.query(sql))[0]!)[0]!;
}

async function expectNothingLeft(servers: readonly DemoServer[], ...folders: readonly string[]) {
  const all = [...servers.map(({ directory }) => directory), ...folders];
  await vi.waitUntil(() => all.every((folder) => !existsSync(folder)), { timeout: 20_000 });
  for (const { endpoint } of servers) {
    await expect(
      openSession(endpoint, { applicationName: 'understudy test' }),
    ).rejects.toMatchObject({
      code: 'CONNECTION_FAILED',
    });
  }
}

test('nothing of the demo is left after kill -9, at whatever it was', async () => {
  await using demo = startCommand(['demo', '--json']);
  const servers = await serversOf(demo);
  await demo.waitFor('"phase":"copying"');
  const spool = await ask(servers[1]!.endpoint, 'SELECT spool_directory FROM understudy.shadow');
  expect(
    [spool, ...servers.map(({ directory }) => directory)].every((path) => existsSync(path)),
  ).toBe(true);
  demo.kill('SIGKILL');
  await demo.ended;
  await expectNothingLeft(servers, spool, dirname(spool));
});

test('nothing of the demo is left when it is told to end', async () => {
  await using demo = startCommand(['demo', '--json']);
  const servers = await serversOf(demo);
  demo.kill('SIGTERM');
  expect((await demo.ended).code).toBe(130);
  await expectNothingLeft(servers);
});

test('the demo ends by itself once its shadow has verified clean under load', async () => {
  const { code, stdout, stderr } = await runCommand(['demo', '--once', '--json']);
  expect([code, stderr]).toEqual([0, '']);
  const lines = parseLines(stdout);
  expect(lines.filter(({ type }) => type === 'verified')).toMatchObject([
    { scope: 'full', lsn: expect.any(String), tables: 29, differences: 0, unverified: [] },
  ]);
  expect(lines.at(-1)).toMatchObject({ type: 'demoFinished', isClean: true, failed: 0 });
  expect(Number(lines.at(-1)!['transactions'])).toBeGreaterThan(100);
});
