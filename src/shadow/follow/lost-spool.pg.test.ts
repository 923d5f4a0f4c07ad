import { cp, rm } from 'node:fs/promises';
import { basename } from 'node:path';

import { expect, test, vi } from 'vitest';

import { formatLsn } from '#src/core/lsn.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import { bringBack, insert, relation, stopped } from '#test/lane.ts';

/*
 * The applier reads the spool before it is on disk, so after a power loss, or an fdatasync that fails, the
 * target has more than the spool. The table that has stopped needs what the others have applied already.
 */

vi.setConfig({ testTimeout: 60_000 });

const TABLES = ['changed', 'steady'].map(
  (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);`,
);

/** A pair whose table `changed` has stopped, and whose target then went on while the spool did not. */
async function loseEnd(pair: FollowedPair, slot: 'had confirmed less' | 'had confirmed it') {
  const { source, target, shadow } = pair;
  const { spoolDirectory: spool = '', slotName: name = '' } = shadow;
  const kept = `${name}_kept`;
  const copySlot = async (from: string, to: string): Promise<void> => {
    await source.session.query('SELECT pg_copy_logical_replication_slot($1, $2)', [from, to]);
  };
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
    await copySlot(name, kept);
  });
  await insert(source.session, 'changed', 101, 200);
  await insert(source.session, 'steady', 101, 200);
  await ahead.caughtUp();
  const applied = formatLsn(ahead.follower.meter.appliedLsn);
  const again = await ahead.again(async () => {
    await rm(spool, { recursive: true });
    await cp(`${spool}.kept`, spool, { recursive: true });
    await rm(`${spool}.kept`, { recursive: true });
    await source.session.query('SELECT pg_drop_replication_slot($1)', [name]);
    await copySlot(kept, name);
    await source.session.query('SELECT pg_drop_replication_slot($1)', [kept]);
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
