import { cp, rm } from 'node:fs/promises';
import { basename } from 'node:path';

import { expect, test, vi } from 'vitest';

import { formatLsn } from '#src/core/lsn.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { bringBack, insert, relation, stopped, until } from '#test/lane.ts';
import type { TestVersion } from '#test/postgres.ts';

/*
 * A spool, or a slot, that comes back older than the target. The applier reads the spool before it is on disk,
 * so after a power loss, or an fdatasync that fails, the target has more; a table that has stopped needs what
 * the others have applied already. A source that crashes forgets what was confirmed since its last checkpoint.
 */

vi.setConfig({ testTimeout: 60_000 });

const TABLES = ['changed', 'steady'].map(
  (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);`,
);

async function copySlot({ source }: FollowedPair, from: string, to: string): Promise<void> {
  await source.session.query('SELECT pg_copy_logical_replication_slot($1, $2)', [from, to]);
}

async function putSlotBack(pair: FollowedPair, name: string, kept: string): Promise<void> {
  await pair.source.session.query('SELECT pg_drop_replication_slot($1)', [name]);
  await copySlot(pair, kept, name);
  await pair.source.session.query('SELECT pg_drop_replication_slot($1)', [kept]);
}

/** A pair whose table `changed` has stopped, and whose target then went on while the spool did not. */
async function loseEnd(pair: FollowedPair, slot: 'had confirmed less' | 'had confirmed it') {
  const { source, target, shadow } = pair;
  const { spoolDirectory: spool = '', slotName: name = '' } = shadow;
  const kept = `${name}_kept`;
  await insert(source.session, 'changed', 1, 100);
  await source.session.query('ALTER TABLE public.changed ADD extra text');
  await source.session.query(`UPDATE public.changed SET extra = 'zqrow'`);
  await stopped(pair, 'changed');
  await pair.caughtUp();
  await using ahead = await pair.again(async () => {
    await cp(spool, `${spool}.kept`, {
      recursive: true,
      filter: (path) => basename(path) !== 'lock',
    });
    await copySlot(pair, name, kept);
  });
  await insert(source.session, 'changed', 101, 200);
  await insert(source.session, 'steady', 101, 200);
  await ahead.caughtUp();
  const applied = formatLsn(ahead.follower.meter.appliedLsn);
  const again = await ahead.again(async () => {
    await rm(spool, { recursive: true });
    await cp(`${spool}.kept`, spool, { recursive: true });
    await rm(`${spool}.kept`, { recursive: true });
    await putSlotBack(pair, name, kept);
    if (slot === 'had confirmed it') {
      await source.session.query('SELECT pg_replication_slot_advance($1, $2)', [name, applied]);
    }
    const [row] = await target.session.query('SELECT count(*) FROM public.steady');
    expect(row?.['count']).toBe('100');
  });
  await target.session.query('ALTER TABLE public.changed ADD extra text');
  return again;
}

test('what the spool lost and the target has comes again, for the table that lacks it (traps 15, 19)', async () => {
  await using pair = await followPair([18, 18], TABLES.join('\n'));
  await using again = await loseEnd(pair, 'had confirmed less');
  expect(await relation(again, 'changed')).toMatchObject({ stop: { waitsFor: 'resume' } });
  await bringBack(again, 'resume', 'changed');
  await insert(again.source.session, 'steady', 201, 300);
  expect(await differences(again, 'public.changed', 'public.steady')).toEqual([]);
});

test('what was confirmed does not come again: the table that lacks it is copied (traps 15, 19)', async () => {
  await using pair = await followPair([18, 18], TABLES.join('\n'));
  await using again = await loseEnd(pair, 'had confirmed it');
  expect(await relation(again, 'changed')).toMatchObject({
    isSpooled: false,
    stop: { waitsFor: 'reseed' },
  });
  expect(JSON.stringify(again.events)).toContain('the spool lost what came from');
  await expect(bringBack(again, 'resume', 'changed')).rejects.toMatchObject({
    code: 'RETURN_REFUSED',
  });
  await bringBack(again, 'reseed', 'changed');
  await insert(again.source.session, 'steady', 201, 300);
  expect(await differences(again, 'public.changed', 'public.steady')).toEqual([]);
});

async function count({ session }: FollowedPair['source']): Promise<string> {
  const [row] = await session.query('SELECT count(*) FROM public.steady');
  return row?.['count'] ?? '';
}

const LAST: Readonly<Record<string, readonly string[]>> = {
  plain: [`INSERT INTO public.steady VALUES (1, 'zqrow')`],
  streamed: [
    `BEGIN; INSERT INTO public.steady SELECT i, 'zqrow ' || i FROM generate_series(100, 5000) i; SAVEPOINT s;
     DELETE FROM public.steady; ROLLBACK TO s; INSERT INTO public.steady VALUES (2, 'zqrow'); COMMIT`,
  ],
  prepared: [
    `BEGIN; INSERT INTO public.steady VALUES (3, 'zqrow')`,
    `PREPARE TRANSACTION 'set back'`,
    `INSERT INTO public.steady VALUES (4, 'zqrow')`,
    `COMMIT PREPARED 'set back'`,
  ],
  'with nothing for us behind it': [
    `INSERT INTO public.steady VALUES (5, 'zqrow')`,
    `CREATE TABLE public.other (id int); INSERT INTO public.other VALUES (1)`,
  ],
};

test.each(
  casesOf<readonly [TestVersion, TestVersion]>([18, 18], [14, 18], [15, 18], [16, 18], [17, 18]),
)(
  'a slot that forgot what was confirmed, as in a crash, goes on with the same transaction, from %i to %i (trap 15)',
  async (...versions) => {
    await using owned = new AsyncDisposableStack();
    let pair = owned.use(await followPair(versions, TABLES.join('\n'), { isStreamed: true }));
    const { slotName: name = '' } = pair.shadow;
    for (const statements of Object.values(LAST)) {
      await pair.caughtUp();
      await copySlot(pair, name, `${name}_kept`);
      for (const sql of statements) await pair.source.session.query(sql);
      const expected = await count(pair.source);
      await until(async () => (await count(pair.target)) === expected, 'it is applied');
      const before = pair;
      pair = owned.use(await before.again(async () => putSlotBack(before, name, `${name}_kept`)));
      expect(await differences(pair, 'public.steady')).toEqual([]);
    }
  },
);
