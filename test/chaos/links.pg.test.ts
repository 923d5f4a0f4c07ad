import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { lsn } from '#src/core/lsn.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { startReplication } from '#src/db/postgres/replication/replication.ts';
import { startFaultProxy } from '#test/fault-proxy.ts';
import { testFull } from '#test/full.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

import { withClient } from './compare.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import {
  createShadow,
  endOf,
  errorOf,
  FOLLOWING,
  settle,
  type Shadow,
  until,
  verify,
} from './shadow.ts';
import { startWorkload } from './workload.ts';

/* What a network does to a shadow, one fault at a time; round.ts does it at random. */

const APPLY = / apply$/;
const RECEIVE = / receive$/;

/** A shadow whose both links go through a proxy; the test itself reaches the servers directly. */
async function createFaultyShadow(versions: readonly [TestVersion, TestVersion], rows = 200) {
  await using owned = new AsyncDisposableStack();
  const source = owned.use(
    await createTestDatabase(versions[0], CHAOS_SCHEMA + bulkRows(rows)),
  ).endpoint;
  const target = owned.use(await createTestDatabase(versions[1])).endpoint;
  const toSource = owned.use(await startFaultProxy(source));
  const toTarget = owned.use(await startFaultProxy(target));
  const shadow = owned.use(
    await createShadow(source, target, { source: toSource.endpoint, target: toTarget.endpoint }),
  );
  const workload = owned.use(await startWorkload(source, 11));
  const all = owned.move();
  return {
    shadow,
    workload,
    toSource,
    toTarget,
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}

async function pidsOf(endpoint: Endpoint, name: RegExp): Promise<readonly number[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      `SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ '^understudy [0-9a-f]{8}' AND application_name ~ $1`,
      [name.source],
    );
    return rows.map(({ pid }) => pid);
  });
}

async function expectEqual(
  { shadow, workload }: { shadow: Shadow; workload: Awaited<ReturnType<typeof startWorkload>> },
  clone: ReturnType<Shadow['start']>,
): Promise<void> {
  await workload.stop();
  expect(await settle(shadow, clone)).toEqual([]);
  expect(await verify(shadow)).toEqual([]);
  expect(workload.failed).toEqual([]);
}

test('a COMMIT whose answer never comes is applied once, whether it was done or not', async () => {
  await using world = await createFaultyShadow([15, 16]);
  const { shadow, toTarget } = world;
  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  for (const isDone of [true, false, true, false]) {
    const sent = Promise.withResolvers<void>();
    toTarget.onText({ links: APPLY, direction: 'toServer', text: 'COMMIT' }, () => {
      // Done, and nobody hears of it; or not even heard of by the server.
      const direction = isDone ? 'toClient' : 'toServer';
      toTarget.inject({ kind: 'blackhole', links: APPLY, direction });
      sent.resolve();
    });
    await sent.promise;
    const [pid] = await pidsOf(shadow.target, APPLY);
    // It holds the origin until it has noticed.
    toTarget.heal();
    await until('another connection applies', async () => {
      const now = await pidsOf(shadow.target, APPLY);
      return now.length > 0 && now[0] !== pid;
    });
  }
  expect(clone.hasEnded()).toBe(false);
  await expectEqual(world, clone);
});

testFull('links that are slow by 50 ms each way, or narrow, carry everything', async () => {
  await using world = await createFaultyShadow([14, 17]);
  const { shadow, workload, toSource, toTarget } = world;
  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  const slow = [toSource, toTarget].map((proxy) => proxy.inject({ kind: 'delay', ms: 50 }));
  const narrow = toTarget.inject({ kind: 'throttle', links: APPLY, bytesPerSecond: 100_000 });
  const before = workload.committed();
  await until('much was committed', async () => workload.committed() > before + 300, 60_000);
  await workload.stop();
  narrow[Symbol.dispose]();
  expect(await settle(shadow, clone)).toEqual([]);
  for (const fault of slow) fault[Symbol.dispose]();
  await expectEqual(world, clone);
});

test('a stream that is cut inside of any message goes on without a gap', async () => {
  await using world = await createFaultyShadow([16, 18]);
  const { shadow, toSource, toTarget } = world;
  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  for (const bytes of [0, 1, 3, 17, 333, 4099, 40_001]) {
    for (const [proxy, endpoint, links] of [
      [toSource, shadow.source, RECEIVE],
      [toTarget, shadow.target, APPLY],
    ] as const) {
      let pids: readonly number[] = [];
      await until('it is connected', async () => {
        pids = await pidsOf(endpoint, links);
        return pids.length === 1;
      });
      const direction = proxy === toSource ? 'toClient' : 'toServer';
      const cut = proxy.inject({ kind: 'cutAfter', links, bytes, direction });
      await until(`cut after ${bytes} bytes`, async () => {
        const now = await pidsOf(endpoint, links);
        return now[0] !== pids[0];
      });
      cut[Symbol.dispose]();
    }
  }
  expect(clone.hasEnded()).toBe(false);
  await expectEqual(world, clone);
});

test('a half-open stream: the walsender that knows nothing is ended, and the slot taken over', async () => {
  await using world = await createFaultyShadow([17, 17]);
  const { shadow, toSource } = world;
  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  const [pid] = await pidsOf(shadow.source, RECEIVE);
  toSource.inject({ kind: 'abandon', links: RECEIVE });
  await until('another walsender streams', async () => {
    const now = await pidsOf(shadow.source, RECEIVE);
    return now.length === 1 && now[0] !== pid;
  });
  expect(clone.hasEnded()).toBe(false);
  await expectEqual(world, clone);
});

test('a session of short statements does not wait behind a dead network (pain 18)', async () => {
  await using db = await createTestDatabase(18);
  await using proxy = await startFaultProxy(db.endpoint);
  const session = await openSession(proxy.endpoint, {
    applicationName: 'understudy test',
    answerMsMax: 300,
  });
  await session.query('SELECT 1');
  proxy.inject({ kind: 'blackhole' });
  await expect(session.query('SELECT 2')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await session[Symbol.asyncDispose]();
  proxy.heal();
  const other = await openSession(proxy.endpoint, { applicationName: 'understudy test' });
  proxy.inject({ kind: 'blackhole' });
  // The goodbye is not answered either.
  await other[Symbol.asyncDispose]();
});

test.each(['IDENTIFY_SYSTEM', 'pg_is_in_recovery', 'START_REPLICATION'])(
  'a stream that begins does not wait for the answer to %s behind a dead network (pain 18)',
  async (text) => {
    await using db = await createTestDatabase(18, 'CREATE PUBLICATION p FOR ALL TABLES');
    await db.session.query(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
    await using proxy = await startFaultProxy(db.endpoint);
    proxy.onText({ links: /test/, direction: 'toServer', text }, () => {
      proxy.inject({ kind: 'blackhole' });
    });
    const starting = startReplication({
      endpoint: proxy.endpoint,
      applicationName: 'understudy test',
      slot: db.name,
      publication: 'p',
      startLsn: lsn(0n),
      binary: false,
      answerMsMax: 1_000,
    });
    await expect(starting).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
      message: expect.stringContaining('did not answer within 1 s'),
    });
  },
);

testFull(
  'a whole clone over links that are slow by 50 ms each way',
  { timeout: 300_000 },
  async () => {
    await using world = await createFaultyShadow([14, 18], 20_000);
    for (const proxy of [world.toSource, world.toTarget]) proxy.inject({ kind: 'delay', ms: 50 });
    await using clone = world.shadow.start();
    await clone.waitFor(FOLLOWING);
    await world.workload.stop();
    expect(await settle(world.shadow, clone)).toEqual([]);
    for (const proxy of [world.toSource, world.toTarget]) proxy.heal();
    await expectEqual(world, clone);
  },
);

testFull(
  'a network that swallows everything is noticed within a minute, and nothing is lost (pain 18)',
  { timeout: 400_000 },
  async () => {
    await using world = await createFaultyShadow([15, 18]);
    const { shadow, toSource, toTarget } = world;
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    for (const [proxy, endpoint] of [
      [toSource, shadow.source],
      [toTarget, shadow.target],
    ] as const) {
      const before = new Set(await pidsOf(endpoint, /./));
      const hole = proxy.inject({ kind: 'blackhole' });
      await clone.waitFor(/trying again/);
      // The server keeps its ends open as it would behind a real firewall, until it is told.
      hole[Symbol.dispose]();
      await until(
        'it works again',
        async () => {
          const now = await pidsOf(endpoint, endpoint === shadow.source ? RECEIVE : APPLY);
          return now.length === 1 && !before.has(now[0] ?? 0);
        },
        120_000,
      );
    }
    expect(clone.hasEnded()).toBe(false);
    await expectEqual(world, clone);
  },
);

testFull(
  'a target that vanishes in the middle of a COPY ends the run, and the next one goes on',
  { timeout: 300_000 },
  async () => {
    await using world = await createFaultyShadow([16, 17], 60_000);
    const { shadow, toTarget } = world;
    await using first = shadow.start();
    const begun = Promise.withResolvers<void>();
    toTarget.onText({ links: / copy$/, direction: 'toServer', text: 'COPY ' }, () => {
      toTarget.inject({ kind: 'blackhole' });
      begun.resolve();
    });
    await begun.promise;
    expect(errorOf(await endOf(first))).toMatch(/^CONNECTION_(LOST|FAILED)$/);
    toTarget.heal();
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await expectEqual(world, clone);
  },
);
