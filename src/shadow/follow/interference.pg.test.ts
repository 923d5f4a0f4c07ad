import { describe, expect, test, vi } from 'vitest';

import { formatLsn } from '#src/core/lsn.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createLogger } from '#src/lib/log.ts';
import { supervise } from '#src/lib/supervise.ts';
import { waitUntil } from '#test/copy.ts';
import { type FollowedPair, followPair } from '#test/follower.ts';
import { isFull } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

import { openFollower } from './follow.ts';

/*
 * Somebody else changes what a shadow stands on, while nobody looks: each is told by its own code, before
 * a change is applied, and none is passed over in silence (traps 8, 14, 15; pains 4, 5).
 */

vi.setConfig({ testTimeout: 60_000 });

const TABLES = `
  CREATE TABLE public.a (id int PRIMARY KEY, v text);
  CREATE TABLE public.b (id int PRIMARY KEY, v text)`;

type Harm = readonly [string, string, (pair: FollowedPair, name: string) => Promise<unknown>];

async function onSource({ source }: FollowedPair, sql: string): Promise<void> {
  await source.session.query(sql);
}

async function onTarget({ target }: FollowedPair, sql: string): Promise<void> {
  await target.session.query(sql);
}

const LOST = `INSERT INTO public.b VALUES (2, 'zqrow that no publication carried')`;

const HARMS: readonly Harm[] = [
  [
    'a table that was taken out of the publication and put back (pain 5)',
    'PUBLICATION_CHANGED',
    async (pair, name) => {
      await onSource(pair, `ALTER PUBLICATION ${name} DROP TABLE public.b`);
      await onSource(pair, LOST);
      await onSource(pair, `ALTER PUBLICATION ${name} ADD TABLE public.b`);
    },
  ],
  [
    'an operation that was left out for a while',
    'PUBLICATION_CHANGED',
    async (pair, name) => {
      await onSource(pair, `ALTER PUBLICATION ${name} SET (publish = 'update')`);
      await onSource(pair, LOST);
      await onSource(
        pair,
        `ALTER PUBLICATION ${name} SET (publish = 'insert, update, delete, truncate')`,
      );
    },
  ],
  [
    'a publication that was dropped and made again (trap 14)',
    'PUBLICATION_CHANGED',
    async (pair, name) => {
      await onSource(pair, `DROP PUBLICATION ${name}`);
      await onSource(pair, LOST);
      await onSource(pair, `CREATE PUBLICATION ${name} FOR TABLE ONLY public.a, ONLY public.b`);
    },
  ],
  [
    'a slot that was moved on',
    'SLOT_AHEAD',
    async (pair, name) => {
      await onSource(pair, LOST);
      await onSource(
        pair,
        `SELECT pg_replication_slot_advance('${name}', pg_current_wal_flush_lsn())`,
      );
    },
  ],
  [
    'a slot that was dropped and made again (trap 15)',
    'SLOT_AHEAD',
    async (pair, name) => {
      await onSource(pair, `SELECT pg_drop_replication_slot('${name}')`);
      await onSource(pair, LOST);
      await onSource(pair, `SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`);
    },
  ],
  [
    'a slot that was dropped',
    'SLOT_LOST',
    async (pair, name) => onSource(pair, `SELECT pg_drop_replication_slot('${name}')`),
  ],
  [
    'a progress that was deleted',
    'PROGRESS_LOST',
    async (pair) => onTarget(pair, 'DELETE FROM understudy.progress'),
  ],
  [
    'a progress that was set back: nothing is applied twice',
    'PROGRESS_LOST',
    async (pair) => onTarget(pair, `UPDATE understudy.progress SET applied_lsn = applied_lsn - 1`),
  ],
  [
    'a target that was restored from a dump, whose ledger has other oids',
    'PROGRESS_LOST',
    async (pair) =>
      onTarget(
        pair,
        `CREATE TABLE understudy.other (LIKE understudy.shadow INCLUDING ALL);
         INSERT INTO understudy.other SELECT * FROM understudy.shadow;
         DROP TABLE understudy.shadow;
         ALTER TABLE understudy.other RENAME TO shadow`,
      ),
  ],
];

/** Until the ledger holds what is applied, as it does a second later. */
async function untilRecorded({ target, follower }: FollowedPair): Promise<void> {
  await waitUntil(async () => {
    const [row] = await target.session.query('SELECT applied_lsn FROM understudy.position');
    return row?.['applied_lsn'] === formatLsn(follower.meter.appliedLsn);
  });
}

/** Follow again, as a new run does; the code of what ends it. */
async function followAgain(pair: FollowedPair): Promise<string> {
  const { source, target, shadow } = pair;
  const [lease] = await target.session.query('SELECT epoch FROM understudy.lease');
  try {
    await using follower = await openFollower({
      source: source.endpoint,
      target: target.endpoint,
      shadow,
      epoch: BigInt(lease?.['epoch'] ?? 0),
      spoolDirectory: shadow.spoolDirectory ?? '',
      jobs: 1,
      clock: systemClock,
      log: createLogger('silent'),
      report: () => undefined,
      failpoints: createFailpoints(undefined),
      onFence: async () => undefined,
    });
    await supervise([follower.spooling, follower.applying], AbortSignal.timeout(10_000));
    return 'it ended';
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error);
  }
}

describe.each<TestVersion>(isFull ? [14, 15, 16, 17, 18] : [18])('on %i', (version) => {
  test.each(HARMS)('%s is told', async (_, code, harm) => {
    await using pair = await followPair([version, 18], TABLES);
    await onSource(pair, `INSERT INTO public.b VALUES (1, 'zqrow'); UPDATE public.b SET v = 'x'`);
    await pair.caughtUp();
    await untilRecorded(pair);
    await pair.stop();
    await pair.follower[Symbol.asyncDispose]();
    await harm(pair, pair.shadow.slotName ?? '');
    const before = await pair.target.session.query('SELECT * FROM public.b');
    expect(await followAgain(pair)).toBe(code);
    expect(await followAgain(pair)).toBe(code);
    expect(await pair.target.session.query('SELECT * FROM public.b')).toEqual(before);
  });
});
