import { describe, expect, test } from 'vitest';

import type { ProgressEvent } from '#src/core/progress.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { type FollowedPair, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { insert, relation, stopped, until } from '#test/lane.ts';
import { verifyOptions } from '#test/verify.ts';
import { watchedPair } from '#test/watched-pair.ts';

import { repairShadow } from './repair.ts';

async function repair(pair: FollowedPair, onFence: () => void = () => undefined) {
  const warnings: string[] = [];
  const report = (event: ProgressEvent): void => {
    if (event.type === 'notice' && event.level === 'warn') warnings.push(event.message);
  };
  let fences = 0;
  // The verification's, that of the repair, and one more for the last word.
  const hit = (name: string): void => {
    if (name === 'fence.afterOpen' && (fences += 1) === 2) onFence();
  };
  const outcome = await repairShadow(await verifyOptions(pair, { report, failpoints: { hit } }));
  return { ...outcome, warnings };
}

const TABLES = ['keyed', 'other'].map(
  (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text);`,
);

describe.each(casesOf<readonly [14 | 18, 18]>([18, 18], [14, 18]))(
  'a table that stopped, from %i to %i',
  (...versions) => {
    test('is not let follow by a repair when it was out of the publication meanwhile (traps 7, 14)', async () => {
      await using watched = await watchedPair(versions, TABLES.join('\n'));
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await insert(session, 'keyed', 1, 10);
      await look();
      await session.query('ALTER TABLE public.keyed DROP CONSTRAINT keyed_pkey');
      await look();
      expect(said()).toEqual([expect.stringContaining('was taken out of the publication')]);
      await session.query('ALTER TABLE public.keyed ADD PRIMARY KEY (id)');
      await insert(session, 'keyed', 11, 12);
      await look();
      expect(await relation(pair, 'keyed')).toMatchObject({ state: 'stopped' });
      const { rows, after, warnings } = await repair(pair);
      // It would follow with none of its changes from now on.
      expect(await relation(pair, 'keyed')).toMatchObject({ state: 'stopped' });
      expect([rows, after.differences, warnings]).toEqual([
        0,
        1,
        ['table "public"."keyed" was not published all the time; it was not repaired: reseed it'],
      ]);
    });
  },
);

test('a stopped table is not let follow by a repair that could not compare it (trap 2)', async () => {
  await using pair = await followPair([17, 18], TABLES.join('\n'));
  await pair.target.session.query('INSERT INTO public.keyed VALUES (5)');
  await insert(pair.source.session, 'keyed', 1, 10);
  await stopped(pair, 'keyed');
  // On a server of its own: no slot waits for this.
  await using other = await openSession(pair.target.endpoint, { applicationName: 'other' });
  let rewriting: Promise<unknown> | undefined;
  const repaired = repair(pair, () => {
    rewriting = other.query(`BEGIN; ALTER TABLE public.keyed ALTER v TYPE text USING v || ''`);
  });
  // Its rows of the fence are gone once the lock is granted.
  await until(async () => {
    const waiting = await pair.target.session.query(
      `SELECT FROM pg_catalog.pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%LOCK TABLE ONLY "public"."keyed"%'`,
    );
    return waiting.length > 0;
  }, 'the repair waits for the table');
  await rewriting;
  await other.query('COMMIT');
  const { rows, warnings } = await repaired;
  expect(await relation(pair, 'keyed')).toMatchObject({ state: 'stopped' });
  expect([rows, warnings]).toEqual([
    0,
    ['public.keyed was rewritten or locked meanwhile and was not repaired'],
  ]);
  expect(await repair(pair)).toMatchObject({ warnings: [], after: { differences: 0 } });
  expect(await relation(pair, 'keyed')).toMatchObject({ state: 'copied' });
});
