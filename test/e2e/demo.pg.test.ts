import { existsSync } from 'node:fs';

import { expect, test, vi } from 'vitest';

import { openSession } from '#src/db/postgres/session.ts';
import { type RunningCommand, startCommand } from '#test/command.ts';

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

test.each(['SIGKILL', 'SIGTERM', 'SIGHUP'] as const)(
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
