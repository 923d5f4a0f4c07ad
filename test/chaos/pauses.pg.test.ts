import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';

import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { startFaultProxy } from '#test/fault-proxy.ts';
import { isFull, testFull } from '#test/full.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

import { withClient } from './compare.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import { createShadow, FOLLOWING, JUMPING_CLOCK, settle, until, verify } from './shadow.ts';
import { startWorkload } from './workload.ts';

/* Processes that stop for a while, and clocks that are set: nothing ends, and nothing is lost. */

/** Only so that a hang ends. */
const LIMIT_MS = 300_000;

async function createWorld(versions: readonly [TestVersion, TestVersion], rows = 200) {
  await using owned = new AsyncDisposableStack();
  const source = owned.use(
    await createTestDatabase(versions[0], CHAOS_SCHEMA + bulkRows(rows)),
  ).endpoint;
  const target = owned.use(await createTestDatabase(versions[1])).endpoint;
  const toTarget = owned.use(await startFaultProxy(target));
  const shadow = owned.use(await createShadow(source, target, { target: toTarget.endpoint }));
  const workload = owned.use(await startWorkload(source, 12));
  const all = owned.move();
  return { shadow, workload, toTarget, [Symbol.asyncDispose]: async () => all.disposeAsync() };
}

async function pidsOf(endpoint: Endpoint, part: string): Promise<readonly number[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      `SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ ('^understudy [0-9a-f]{8} ' || $1 || '$')`,
      [part],
    );
    return rows.map(({ pid }) => pid);
  });
}

test(
  'a clock that is set by hours, also while a fence is kept, changes nothing',
  { timeout: LIMIT_MS },
  async () => {
    await using world = await createWorld([16, 17]);
    const { shadow, workload } = world;
    await using clone = shadow.start({ env: JUMPING_CLOCK });
    await clone.waitFor(FOLLOWING);
    // Forward and back by the wall, then everything forward by an hour, as after a long sleep.
    for (const isLeap of [false, false, true]) {
      const verifying = isLeap ? undefined : shadow.run(['verify', '--full']);
      await wait(100);
      clone.kill('SIGUSR2');
      const ended = await verifying;
      expect(ended?.code ?? 0).toBe(0);
      const before = workload.committed();
      await until('production goes on', async () => workload.committed() > before + 20);
    }
    expect(clone.hasEnded()).toBe(false);
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
  },
);

testFull(
  'a runner that sleeps past wal_sender_timeout connects again; one that is idle answers in time',
  { timeout: LIMIT_MS },
  async () => {
    await using world = await createWorld([15, 16]);
    const { shadow, workload } = world;
    await withClient(shadow.source, async (client) =>
      client.query(`ALTER DATABASE ${shadow.source.database} SET wal_sender_timeout = '2s'`),
    );
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    const [sleeper] = await pidsOf(shadow.source, 'receive');
    clone.kill('SIGSTOP');
    await until('the source gives it up', async () => {
      const now = await pidsOf(shadow.source, 'receive');
      return now.length === 0;
    });
    clone.kill('SIGCONT');
    let runner: number | undefined;
    await until('it streams again', async () => {
      [runner] = await pidsOf(shadow.source, 'receive');
      return runner !== undefined && runner !== sleeper;
    });
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    // Two timeouts long there is nothing to say.
    await wait(4500);
    expect(await pidsOf(shadow.source, 'receive')).toEqual([runner]);
    expect(await verify(shadow)).toEqual([]);
  },
);

test(
  'a backend that stops with a COMMIT in hand, and wakes under the next runner, counts once',
  { timeout: LIMIT_MS },
  async () => {
    await using world = await createWorld([17, 18]);
    const { shadow, workload, toTarget } = world;
    await using first = shadow.start();
    await first.waitFor(FOLLOWING);
    const [backend = 0] = await pidsOf(shadow.target, 'apply');
    const stopped = Promise.withResolvers<void>();
    toTarget.onText({ links: / apply$/, direction: 'toServer', text: 'COMMIT' }, () => {
      process.kill(backend, 'SIGSTOP');
      stopped.resolve();
    });
    await stopped.promise;
    // The bytes are with the server; who sent them dies.
    await wait(200);
    first.kill('SIGKILL');
    await first.ended;
    await using clone = shadow.start();
    await until('the next runner waits for it or its lease', async () => {
      const others = await pidsOf(shadow.target, '(control|apply)');
      return clone.hasEnded() || others.some((pid) => pid !== backend);
    });
    process.kill(backend, 'SIGCONT');
    await clone.waitFor(FOLLOWING);
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test.runIf(isFull && process.platform === 'linux')(
  'a keeper that is stopped still keeps its snapshot, and is not missed at the end',
  { timeout: LIMIT_MS },
  async () => {
    await using world = await createWorld([14, 15], 20_000);
    const { shadow, workload } = world;
    await using first = shadow.start({ failpoints: 'copy.afterPartCommit:2' });
    await first.waitFor('"phase":"copying"');
    const keepers = await keepersOf(first.processId);
    for (const pid of keepers) process.kill(pid, 'SIGSTOP');
    expect((await first.ended).code).toBe(null);
    const generations = async (): Promise<unknown> =>
      withClient(
        shadow.target,
        async (client) =>
          (
            await client.query(
              // Production truncates the scratch table, which starts it again for another reason (trap 2).
              `SELECT DISTINCT p.generation FROM understudy.part p JOIN understudy.relation USING (shadow_id, source_oid)
                WHERE table_name <> 'scratch'`,
            )
          ).rows,
      );
    expect(await generations()).toEqual([{ generation: 1 }]);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    // Adopted by the next run, not lost.
    expect(await generations()).toEqual([{ generation: 1 }]);
    expect(keepers.length).toBeGreaterThan(0);
    for (const pid of keepers) process.kill(pid, 'SIGCONT');
    await until('the keepers are gone', async () => {
      const left = await Promise.all(keepers.map(isAlive));
      return !left.includes(true);
    });
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
  },
);

async function keepersOf(processId: number): Promise<readonly number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      const isChild = new RegExp(`^PPid:\\s+${processId}$`, 'm').test(status);
      return isChild && command.includes('keeper') ? [pid] : [];
    }),
  );
  return found.flat();
}

async function isAlive(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return status !== '' && !/^State:\s+Z/m.test(status);
}
