import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { expect, test, vi } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { createServerFolder } from '#test/postgres.ts';

import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  embeddedVersions,
  startEmbeddedPostgres,
} from './embedded-postgres.ts';

const QUICK = { settings: { fsync: 'off', shared_buffers: '16MB' }, password: `it's a \\ secret` };

async function ask(server: EmbeddedPostgres, sql: string): Promise<string | null | undefined> {
  await using session = await openSession(server.endpoint, { applicationName: 'test' });
  const [row] = await session.query(sql);
  return row && Object.values(row)[0];
}

function isAlive(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch {
    return false;
  }
}

/** A process that starts a server, says where, and then only lives. */
async function spawnOwner(): Promise<{
  owner: ReturnType<typeof spawn>;
  processId: number;
  directory: string;
}> {
  const options: EmbeddedPostgresOptions = { version: 18, ...QUICK };
  const owner = spawn(
    process.execPath,
    [
      '--input-type=module-typescript',
      '--eval',
      `import { startEmbeddedPostgres } from '#src/provision/embedded-postgres.ts';
       import { mkdirSync } from 'node:fs';
       const server = await startEmbeddedPostgres(${JSON.stringify(options)});
       mkdirSync(server.directory + '/ours/alone', { recursive: true, mode: 0o700 });
       console.log(JSON.stringify({ processId: server.processId, directory: server.directory }));`,
    ],
    { cwd: join(import.meta.dirname, '../..'), stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const [line] = await once(createInterface({ input: owner.stdout }), 'line');
  return { owner, ...JSON.parse(line) };
}

test('every major that is installed starts, and knows its password', async () => {
  // npm has Postgres 14 for Linux on x64 only.
  const isLinuxX64 = process.platform === 'linux' && process.arch === 'x64';
  expect(embeddedVersions()).toEqual([...(isLinuxX64 ? [14] : []), 15, 16, 17, 18]);
  for (const version of embeddedVersions()) {
    await using server = await startEmbeddedPostgres({ version, ...QUICK });
    expect(await ask(server, 'SHOW server_version_num')).toMatch(new RegExp(`^${version}00`));
    expect(await ask(server, 'SHOW wal_level')).toBe('logical');
    expect(await ask(server, 'SHOW listen_addresses')).toBe('127.0.0.1');
  }
});

test('a wrong password is refused', async () => {
  await using server = await startEmbeddedPostgres({ version: 18, ...QUICK });
  const endpoint = { ...server.endpoint, password: 'guess' };
  await expect(openSession(endpoint, { applicationName: 'test' })).rejects.toMatchObject({
    code: 'AUTHENTICATION_FAILED',
  });
});

test('disposal ends the server and removes its temporary folder', async () => {
  const server = await startEmbeddedPostgres({ version: 16, ...QUICK });
  await server[Symbol.asyncDispose]();
  expect(isAlive(server.processId)).toBe(false);
  expect(existsSync(server.directory)).toBe(false);
});

test('a folder that was given is kept, through an orderly stop and through a crash', async () => {
  await using folder = await createServerFolder();
  const options = { version: 14, ...QUICK, directory: join(folder.path, 'data') };
  {
    await using server = await startEmbeddedPostgres(options);
    await ask(server, 'CREATE TABLE public.kept AS SELECT 42 AS answer');
    await server.stop();
    await server.stop();
  }
  {
    await using server = await startEmbeddedPostgres(options);
    expect(await ask(server, 'SELECT answer FROM public.kept')).toBe('42');
    await ask(server, 'UPDATE public.kept SET answer = 43');
    await server.kill9();
  }
  await using server = await startEmbeddedPostgres(options);
  expect(await ask(server, 'SELECT answer FROM public.kept')).toBe('43');
});

test.each(['SIGKILL', 'SIGTERM', 'SIGINT'] as const)(
  'no server outlives its owner: %s (trap 48)',
  async (signal) => {
    const { owner, processId, directory } = await spawnOwner();
    expect(isAlive(processId)).toBe(true);
    owner.kill(signal);
    await vi.waitUntil(() => !isAlive(processId) && !existsSync(directory), { timeout: 20_000 });
  },
);

test('what Postgres printed is in the error when it does not start', async () => {
  await using server = await startEmbeddedPostgres({ version: 18, ...QUICK });
  await expect(
    startEmbeddedPostgres({ version: 18, ...QUICK, port: server.endpoint.port }),
  ).rejects.toMatchObject({
    code: 'SERVER_START_FAILED',
    message: expect.stringContaining('Address already in use'),
  });
  await expect(
    startEmbeddedPostgres({ version: 18, ...QUICK, settings: { no_such_setting: '1' } }),
  ).rejects.toMatchObject({ message: expect.stringContaining('no_such_setting') });
});

test('a folder of another major is refused', async () => {
  await using folder = await createServerFolder();
  const directory = join(folder.path, 'data');
  await using server = await startEmbeddedPostgres({ version: 14, ...QUICK, directory });
  await server.stop();
  await expect(startEmbeddedPostgres({ version: 18, ...QUICK, directory })).rejects.toMatchObject({
    code: 'SERVER_START_FAILED',
    message: `${directory} holds Postgres 14, not 18`,
  });
});

test.runIf(process.platform === 'linux')(
  'a statement ends soon after its client was killed',
  async () => {
    await using server = await startEmbeddedPostgres({ version: 14, ...QUICK });
    const client = spawn(
      process.execPath,
      [
        '--input-type=module-typescript',
        '--eval',
        `import { openSession } from '#src/db/postgres/connection/session.ts';
         const endpoint = ${JSON.stringify(server.endpoint)};
         const session = await openSession(endpoint, { applicationName: 'sleeper' });
         await session.query('SELECT pg_sleep(3600)');`,
      ],
      { cwd: join(import.meta.dirname, '../..'), stdio: 'inherit' },
    );
    const sleepers = async () =>
      ask(
        server,
        `SELECT count(*) FROM pg_stat_activity
         WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'`,
      );
    await expect.poll(sleepers, { timeout: 20_000 }).toBe('1');
    client.kill('SIGKILL');
    await expect.poll(sleepers, { timeout: 20_000 }).toBe('0');
  },
);

test('a start that is no longer wanted leaves nothing', async () => {
  const stop = new AbortController();
  const start = startEmbeddedPostgres({ version: 18, ...QUICK, signal: stop.signal });
  stop.abort(new Error('changed my mind'));
  await expect(start).rejects.toThrow('changed my mind');
});
