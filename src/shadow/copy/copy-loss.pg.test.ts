import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';

import { expect, test } from 'vitest';

import { partsOf } from '#src/core/copy-plan.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { openWireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { NO_FAILPOINTS } from '#src/lib/failpoint.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import type { EmbeddedPostgres } from '#src/provision/embedded-postgres.ts';
import {
  keepers,
  runCopy,
  SHADOW_ID,
  startCopyProcess,
  tableDigest,
  takeSnapshot,
  waitUntil,
} from '#test/copy.ts';
import {
  createServerFolder,
  createTestDatabase,
  startTestServer,
  testServer,
} from '#test/postgres.ts';

import { recordStart } from './copy-ledger.ts';
import { copyPart } from './copy-part.ts';
import { holdGeneration } from './generations.ts';
import { adoptSnapshot, holdSnapshot } from './hold-snapshot.ts';

const SCHEMA = 'CREATE TABLE public.a (id bigint PRIMARY KEY, v text);';
/** 21 parts of 64 KB. */
const ROWS = `INSERT INTO public.a SELECT i, repeat('a', 100) FROM generate_series(1, 10000) i;`;
const PART_BYTES = 64 * 1024;

async function endCopyConnections(session: Session): Promise<void> {
  await session.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE application_name = $1 AND datname = current_database()`,
    [`understudy ${SHADOW_ID} copy`],
  );
}

/** Calls `act` once, when that many parts are copied. */
function afterParts<T>(parts: number, act: () => Promise<T>) {
  let acting: Promise<T> | undefined;
  return {
    report: (event: ProgressEvent): void => {
      if (event.type === 'copyProgress' && event.parts >= parts) acting ??= act();
    },
    acted: async () => acting,
  };
}

test('connections that are lost on either side are made again, and no part is lost or doubled', async () => {
  await using source = await createTestDatabase(18, SCHEMA + ROWS);
  await using target = await createTestDatabase(16, SCHEMA);
  const loss = afterParts(1, async () => {
    await endCopyConnections(source.session);
    await endCopyConnections(target.session);
  });
  await runCopy(
    { source: source.endpoint, target: target.endpoint, partBytes: PART_BYTES },
    { report: loss.report },
  );
  await loss.acted();
  expect(await tableDigest(target.session, 'public.a')).toBe(
    await tableDigest(source.session, 'public.a'),
  );
});

test('a part that two connections copy, since a COMMIT got lost on its way back, is stored once', async () => {
  // No key: nothing but the ledger could tell.
  const schema = 'CREATE TABLE public.a (id bigint, v text);';
  await using source = await createTestDatabase(18, schema + ROWS);
  await using target = await createTestDatabase(18, schema + LEDGER_SCHEMA);
  const held = await holdGeneration(
    {
      source: source.endpoint,
      target: target.session,
      shadowId: SHADOW_ID,
      failpoints: NO_FAILPOINTS,
    },
    await takeSnapshot(source.endpoint),
  );
  const [table] = await readTables(source.session, EVERYTHING);
  const cut = { pages: 1, partPages: 1, sourceBytes: 8192 };
  await recordStart(target.session, SHADOW_ID, held, [{ table: table!, cut }]);
  const open = async () => {
    const options = { applicationName: 'understudy test' };
    return {
      source: await openWireConnection(source.endpoint, options),
      target: await openWireConnection(target.endpoint, options),
    };
  };
  const pairs = [await open(), await open()];
  const job = {
    shadowId: SHADOW_ID,
    table: table!,
    part: partsOf(cut)[0]!,
    held,
    advance: () => undefined,
    failpoints: createFailpoints(undefined),
  };
  const counts = await Promise.all(pairs.map(async (pair) => copyPart(pair, job)));
  counts.push(await copyPart(pairs[0]!, job));
  expect(counts.map(({ rows }) => rows)).toEqual([10_000, 10_000, 10_000]);
  expect(await tableDigest(target.session, 'public.a')).toBe(
    await tableDigest(source.session, 'public.a'),
  );
  for (const pair of pairs) {
    pair.source.destroy();
    pair.target.destroy();
  }
  await held.end();
});

test('a reader that is not on the snapshot of the others copies nothing (pain 8)', async () => {
  await using source = await createTestDatabase(18, SCHEMA + ROWS);
  await using target = await createTestDatabase(18, SCHEMA + LEDGER_SCHEMA);
  const held = await holdGeneration(
    {
      source: source.endpoint,
      target: target.session,
      shadowId: SHADOW_ID,
      failpoints: createFailpoints(undefined),
    },
    await takeSnapshot(source.endpoint),
  );
  await source.session.query(`UPDATE public.a SET v = 'later'`);
  const other = await takeSnapshot(source.endpoint);
  const [table] = await readTables(source.session, EVERYTHING);
  const cut = { pages: 1, partPages: 1, sourceBytes: 8192 };
  await recordStart(target.session, SHADOW_ID, held, [{ table: table!, cut }]);
  const options = { applicationName: 'understudy test' };
  const pair = {
    source: await openWireConnection(source.endpoint, options),
    target: await openWireConnection(target.endpoint, options),
  };
  // As an id would be that names another snapshot after the server was restarted.
  const mistaken = { ...held, exported: [other.snapshotName] };
  await expect(
    copyPart(pair, {
      shadowId: SHADOW_ID,
      table: table!,
      part: partsOf(cut)[0]!,
      held: mistaken,
      advance: () => undefined,
      failpoints: createFailpoints(undefined),
    }),
  ).rejects.toMatchObject({ code: 'SNAPSHOT_LOST' });
  pair.source.destroy();
  pair.target.destroy();
  const [row] = await target.session.query('SELECT count(*) AS n FROM public.a');
  expect(row).toEqual({ n: '0' });
  await other.release();
  await held.end();
});

test('rows that a policy hides from the role end the copy, they are not left out (trap 5)', async () => {
  await using source = await createTestDatabase(18, SCHEMA + ROWS);
  await using target = await createTestDatabase(18, SCHEMA);
  const role = source.name;
  source.dropRoleAfterwards(role);
  await source.session.query(
    `CREATE ROLE ${role} LOGIN PASSWORD 'password'; GRANT SELECT ON public.a TO ${role};
     ALTER TABLE public.a ENABLE ROW LEVEL SECURITY;
     CREATE POLICY half ON public.a USING (id % 2 = 0)`,
  );
  const endpoint = { ...source.endpoint, user: role, password: 'password' };
  await expect(
    runCopy({ source: endpoint, target: target.endpoint, partBytes: PART_BYTES }),
  ).rejects.toMatchObject({ code: 'PRIVILEGE_MISSING', detail: { sqlstate: '42501' } });
  const [row] = await target.session.query('SELECT count(*) AS n FROM public.a');
  expect(row).toEqual({ n: '0' });
});

test('a source and a target that crash and come back are waited for; the snapshot died with them (complaint 11)', async () => {
  await using folder = await createServerFolder();
  const options = { version: 18, directory: `${folder.path}/data` } as const;
  const first = await startTestServer(options);
  const open = async (database: string): Promise<Session> =>
    openSession({ ...first.endpoint, database }, { applicationName: 'understudy test' });
  {
    await using admin = await open('postgres');
    await admin.query('CREATE DATABASE source');
    await admin.query('CREATE DATABASE target');
    await using source = await open('source');
    await source.query(`${SCHEMA + ROWS}; CREATE TABLE public.parked (id int PRIMARY KEY)`);
    await using target = await open('target');
    await target.query(`${SCHEMA}; CREATE TABLE public.parked (id int PRIMARY KEY)`);
  }
  const blocker = await open('source');
  // A locked table keeps the copy from ending before the crash.
  const crash = async (): Promise<EmbeddedPostgres> => {
    await blocker.query('BEGIN; LOCK TABLE public.parked IN ACCESS EXCLUSIVE MODE');
    const waiting = `SELECT FROM pg_locks WHERE relation = 'public.parked'::regclass AND NOT granted`;
    while ((await blocker.query(waiting)).length === 0) await wait(20);
    await first.kill9();
    return startTestServer({ ...options, port: first.endpoint.port });
  };
  const crashes: Promise<EmbeddedPostgres>[] = [];
  const job = {
    source: { ...first.endpoint, database: 'source' },
    target: { ...first.endpoint, database: 'target' },
    partBytes: PART_BYTES,
  };
  let snapshots = 0;
  const onSnapshot = (): void => {
    snapshots += 1;
    if (snapshots === 1) crashes.push(crash());
  };
  await runCopy(job, { onSnapshot });
  await using second = await crashes[0];
  expect(second?.endpoint.port).toBe(first.endpoint.port);
  expect(snapshots).toBe(2);
  await using source = await open('source');
  await using target = await open('target');
  expect(await tableDigest(target, 'public.a')).toBe(await tableDigest(source, 'public.a'));
});

/** Passes bytes on, but towards the server only while it is open. */
async function startValve(server: Endpoint): Promise<
  AsyncDisposable & {
    readonly port: number;
    readonly setOpen: (isOpen: boolean) => void;
    readonly bytes: () => number;
  }
> {
  const clients = new Set<Socket>();
  let bytes = 0;
  let isValveOpen = true;
  const proxy: Server = createServer((client) => {
    const upstream = connect(server.port, server.host);
    clients.add(client);
    client.on('data', (chunk) => {
      bytes += chunk.length;
      upstream.write(chunk);
    });
    if (!isValveOpen) client.pause();
    upstream.pipe(client);
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
    client.on('error', () => undefined);
    upstream.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => {
    proxy.listen(0, '127.0.0.1', resolve);
  });
  const address = proxy.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    bytes: () => bytes,
    setOpen: (isOpen) => {
      isValveOpen = isOpen;
      for (const client of clients) {
        if (isOpen) client.resume();
        else client.pause();
      }
    },
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => {
        proxy.close(resolve);
      });
    },
  };
}

test('a target that takes nothing does not make the memory grow', async () => {
  const wide = `
    CREATE TABLE public.a (id bigint, v text);
    ALTER TABLE public.a ALTER COLUMN v SET STORAGE EXTERNAL;`;
  // 64 MB in 64 rows.
  const rows = `INSERT INTO public.a SELECT i, repeat(md5(i::text), 32768) FROM generate_series(1, 64) i;`;
  await using source = await createTestDatabase(18, wide + rows);
  await using target = await createTestDatabase(18, wide);
  await using valve = await startValve(await testServer(18));
  let sent = 0;
  const copying = runCopy(
    {
      source: source.endpoint,
      target: { ...target.endpoint, host: '127.0.0.1', port: valve.port },
      jobs: 1,
    },
    {
      report: (event) => {
        if (event.type !== 'copyProgress') return;
        if (event.bytes > 0 && sent === 0) valve.setOpen(false);
        sent = event.bytes;
      },
    },
  );
  // It has stopped once nothing more is passed on for a while.
  let before = -1;
  await waitUntil(async () => {
    const isStill = sent > 0 && sent === before;
    before = sent;
    await new Promise((resolve) => {
      setTimeout(resolve, 400);
    });
    return isStill && sent === before;
  });
  // The kernel's buffers of a connection on one machine, and half a megabyte of ours.
  expect(sent - valve.bytes()).toBeLessThan(12 * 1024 * 1024);
  expect(process.memoryUsage().arrayBuffers).toBeLessThan(16 * 1024 * 1024);
  valve.setOpen(true);
  await copying;
  expect(await tableDigest(target.session, 'public.a')).toBe(
    await tableDigest(source.session, 'public.a'),
  );
}, 60_000);

test('keepers outlive a killed process for the grace, and no longer', async () => {
  await using source = await createTestDatabase(18, SCHEMA + ROWS);
  await using target = await createTestDatabase(18, SCHEMA);
  const killed = startCopyProcess({
    source: source.endpoint,
    target: target.endpoint,
    partBytes: PART_BYTES,
    failpoints: 'copy.afterPartCommit:3',
    graceMs: 500,
  });
  await killed.exited;
  expect(await keepers(source.session)).toBe(2);
  await waitUntil(async () => (await keepers(source.session)) === 0);
});

test('a snapshot can be handed on while one of its keepers lives, and each end is told', async () => {
  await using source = await createTestDatabase(14, SCHEMA);
  const options = { source: source.endpoint, shadowId: SHADOW_ID };
  const taken = await takeSnapshot(source.endpoint);
  const first = await holdSnapshot({ ...options, snapshotName: taken.snapshotName });
  await taken.release();
  await expect(
    holdSnapshot({ ...options, snapshotName: taken.snapshotName }),
  ).rejects.toMatchObject({ code: 'SNAPSHOT_LOST' });
  await source.session.query('SELECT pg_terminate_backend($1)', [first.backendPids[0] ?? 0]);
  await waitUntil(async () => (await keepers(source.session)) === 1);
  const second = await adoptSnapshot({ ...options, ...first });
  expect(second?.snapshot).toBe(first.snapshot);
  await first.end();
  await expect(adoptSnapshot({ ...options, ...first })).resolves.toBeUndefined();
  // The same ids, another snapshot: what a restarted server would say.
  await expect(
    adoptSnapshot({ ...options, exported: second?.exported ?? [], snapshot: '1:1:' }),
  ).resolves.toBeUndefined();
  await source.session.query(
    'SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS k (pid)',
    [(second?.backendPids ?? []).map(String)],
  );
  await expect(second?.lost).resolves.toMatchObject({ code: 'SNAPSHOT_LOST' });
});
