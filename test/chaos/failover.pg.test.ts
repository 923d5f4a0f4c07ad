import { execFile } from 'node:child_process';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { expect, test, vi } from 'vitest';

import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { EmbeddedPostgres } from '#src/provision/embedded-postgres.ts';
import { isFull, testFull } from '#test/full.ts';
import {
  createServerFolder,
  createTestDatabase,
  startTestServer,
  type TestVersion,
} from '#test/postgres.ts';
import { createAddress, PRIMARY_SETTINGS, STANDBY_SLOT, startStandby } from '#test/standby.ts';

import { findDifferences } from './compare.ts';
import { CHAOS_SCHEMA } from './schema.ts';
import { createShadow, endOf, errorOf, FOLLOWING, settle, until, verify } from './shadow.ts';
import { startWorkload } from './workload.ts';

/*
 * The source fails over to a physical standby (migrate.md §7.15, pains 4 and 5): the shadow goes on where
 * it provably can, and else says why it cannot. Never does it take the new primary for the old one; nor a
 * source that was put back to an older state of its disk for the one that it was.
 */

vi.setConfig({ testTimeout: 180_000 });

/** A primary with a row, a standby of it, and a target; the standby has all that the shadow may have. */
async function createTrio(version: TestVersion, isGuarded: boolean) {
  await using owned = new AsyncDisposableStack();
  const primary = owned.use(
    await startTestServer({
      version,
      settings: {
        ...PRIMARY_SETTINGS,
        ...(isGuarded ? { synchronized_standby_slots: STANDBY_SLOT } : {}),
      },
    }),
  );
  const session = owned.use(await openSession(primary.endpoint, { applicationName: 'test' }));
  const standby = owned.use(await startStandby(primary, version));
  const target = owned.use(await createTestDatabase(18));
  const resources = owned.move();
  return {
    primary,
    session,
    standby,
    target,
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}

async function onServer<T>(server: EmbeddedPostgres, work: (session: Session) => Promise<T>) {
  await using session = await openSession(server.endpoint, { applicationName: 'test' });
  return await work(session);
}

const SMALL = `CREATE TABLE public.t (id int PRIMARY KEY, x text); INSERT INTO public.t VALUES (1, 'zqrow')`;

test.each<TestVersion>(isFull ? [17, 18] : [18])(
  'a follower of %i goes on when its primary is killed and the standby takes the address (pain 4, complaint 15)',
  async (version) => {
    await using trio = await createTrio(version, true);
    const { primary, session, standby, target } = trio;
    await session.query(CHAOS_SCHEMA);
    // A commit is answered when the standby has it, so that production loses nothing either.
    await session.query(`ALTER SYSTEM SET synchronous_standby_names = 'walreceiver'`);
    await session.query('SELECT pg_reload_conf()');
    await using address = await createAddress(primary);
    await using shadow = await createShadow(address.endpoint, target.endpoint);
    await using workload = await startWorkload(address.endpoint, 7);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await standby.hasSlot();
    const before = workload.committed();
    await until('there is load', async () => workload.committed() > before + 30);

    workload.announceCrash();
    await primary.kill9();
    await standby.promote();
    address.moveTo(standby.server);

    await clone.waitFor('failed over from timeline 1 to 2');
    const after = workload.committed();
    await until('there is load again', async () => workload.committed() > after + 30);
    await workload.stop();
    expect(workload.failed).toEqual([]);
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    const [row] = await target.session.query(
      'SELECT source_timeline, count(*) OVER () AS shadows FROM understudy.shadow',
    );
    expect(row).toEqual({ source_timeline: '2', shadows: '1' });
  },
);

testFull(
  'a shadow that was not running goes on at the new primary, under its own address',
  async () => {
    await using trio = await createTrio(17, true);
    const { primary, session, standby, target } = trio;
    await session.query(SMALL);
    await using shadow = await createShadow(primary.endpoint, target.endpoint);
    const checked = await shadow.run(['check']);
    expect(checked.stdout).toContain('would outlive a failover');
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      await standby.hasSlot();
      clone.kill('SIGTERM');
      await endOf(clone);
    }
    await session.query(`INSERT INTO public.t VALUES (2, 'zqrow while nobody reads')`);
    await standby.caughtUp(session);
    await primary.kill9();
    await standby.promote();
    const [head] = await onServer(standby.server, async (now) => {
      await now.query(`INSERT INTO public.t VALUES (3, 'zqrow on timeline 2')`);
      return now.query('SELECT pg_current_wal_insert_lsn() AS lsn');
    });
    await using moved = await createShadow(standby.server.endpoint, target.endpoint);
    await using clone = moved.start({ more: ['--until-lsn', head?.['lsn'] ?? ''] });
    const ended = await endOf(clone);
    expect(`${ended.code} ${errorOf(ended)}`).toBe('0 undefined');
    expect(ended.stdout).toContain('failed over from timeline 1 to 2');
    expect(await findDifferences(standby.server.endpoint, target.endpoint)).toEqual([]);
  },
);

test('a shadow that is ahead of the new primary is refused: it has rows that are lost (traps 8, 15)', async () => {
  await using trio = await createTrio(18, false);
  const { primary, session, standby, target } = trio;
  await session.query(SMALL);
  await using shadow = await createShadow(primary.endpoint, target.endpoint);
  {
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await standby.hasSlot();
    // Nothing of what follows reaches the standby.
    await standby.server.kill9();
    await session.query(`INSERT INTO public.t VALUES (2, 'zqrow that will be lost')`);
    await until('it is applied', async () => {
      const [row] = await target.session.query('SELECT count(*) FROM public.t');
      return row?.['count'] === '2';
    });
    clone.kill('SIGTERM');
    await endOf(clone);
  }
  await primary.kill9();
  await using promoted = await startTestServer({
    version: 18,
    directory: standby.server.directory,
  });
  await onServer(promoted, async (now) => {
    await now.query('SELECT pg_promote(true, 30)');
    await now.query(`INSERT INTO public.t SELECT i, 'zqrow new' FROM generate_series(2, 500) i`);
  });
  await using moved = await createShadow(promoted.endpoint, target.endpoint);
  const ended = await endOf(moved.start());
  expect(`${ended.code} ${errorOf(ended)}`).toBe('1 SOURCE_BEHIND');
  // Nothing was applied, the next run says the same, and status names it.
  expect(errorOf(await endOf(moved.start()))).toBe('SOURCE_BEHIND');
  expect((await moved.status()).stdout).toContain('SOURCE_BEHIND');
  const [row] = await target.session.query('SELECT count(*) FROM public.t');
  expect(row?.['count']).toBe('2');
  expect((await moved.run(['drop'])).code).toBe(0);
});

testFull(
  'a standby of 16 has no slots of its primary: the shadow must be made again (pain 5)',
  async () => {
    await using trio = await createTrio(16, false);
    const { primary, session, standby, target } = trio;
    await session.query(SMALL);
    await using shadow = await createShadow(primary.endpoint, target.endpoint);
    const checked = await shadow.run(['check']);
    expect(checked.stdout).toContain('source-failover');
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      clone.kill('SIGTERM');
      await endOf(clone);
    }
    await standby.caughtUp(session);
    await primary.kill9();
    await standby.promote();
    await using moved = await createShadow(standby.server.endpoint, target.endpoint);
    const ended = await endOf(moved.start());
    expect(`${ended.code} ${errorOf(ended)}`).toBe('1 SLOT_LOST');
    expect(ended.stdout).toContain('timeline 2 in a failover');
  },
);

test.each<TestVersion>(isFull ? [14, 16, 18] : [18])(
  'a source of %i that was put back to an older state of its disk is refused (traps 8, 15)',
  async (version) => {
    await using owned = new AsyncDisposableStack();
    const folder = owned.use(await createServerFolder());
    const [directory, older] = [join(folder.path, 'data'), join(folder.path, 'older')];
    const source = owned.use(await startTestServer({ version, directory }));
    const target = owned.use(await createTestDatabase(18));
    await onServer(source, async (session) => session.query(SMALL));
    const shadow = owned.use(await createShadow(source.endpoint, target.endpoint));
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      clone.kill('SIGTERM');
      await endOf(clone);
    }
    await source.stop();
    await promisify(execFile)('cp', ['-a', directory, older]);
    const { port } = source.endpoint;
    const newer = owned.use(await startTestServer({ version, directory, port }));
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await onServer(newer, async (session) =>
      session.query(`INSERT INTO public.t SELECT i, 'zqrow lost' FROM generate_series(2, 3000) i`),
    );
    const count = async (): Promise<string> => {
      const [row] = await target.session.query('SELECT count(*) FROM public.t');
      return row?.['count'] ?? '';
    };
    await until('it is applied', async () => (await count()) === '3000');
    await newer.kill9();
    await rm(directory, { recursive: true });
    await rename(older, directory);
    const restored = owned.use(await startTestServer({ version, directory, port }));
    // At a position that the shadow has passed.
    await onServer(restored, async (session) =>
      session.query(`INSERT INTO public.t VALUES (4000, 'zqrow new')`),
    );

    // The one that runs finds it when it connects again.
    const ended = await endOf(clone);
    expect(`${ended.code} ${errorOf(ended)}`).toBe('1 SOURCE_BEHIND');
    expect(ended.stdout).toContain('the source was put back to an older state: its WAL ends at');
    expect((await shadow.status()).stdout).toContain('SOURCE_BEHIND');

    // One that comes when the source has written more than it had before finds other transactions there.
    await onServer(restored, async (session) =>
      session.query(
        `INSERT INTO public.t SELECT i, 'zqrow new' FROM generate_series(5000, 30000) i`,
      ),
    );
    const late = await endOf(shadow.start());
    expect(`${late.code} ${errorOf(late)}`).toBe('1 SOURCE_BEHIND');
    expect(late.stdout).toContain('is not there any more');
    expect(await count()).toBe('3000');
  },
);
