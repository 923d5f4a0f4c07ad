import { setTimeout as wait } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { systemClock } from '#src/lib/clock.ts';
import { type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';
import { returnTables } from '#src/shadow/return-tables.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import type { TestVersion } from '#test/postgres.ts';

const PAIRS: readonly (readonly [TestVersion, TestVersion])[] = [
  [14, 18],
  [18, 18],
];
const DEADLINE_MS = 30_000;

async function relation(pair: FollowedPair, name: string): Promise<RelationRecord> {
  const records = await readRelationRecords(pair.target.session, pair.shadow.shadowId);
  const found = records.findLast((record) => record.name === name);
  if (found === undefined) throw new Error(`no relation ${name}`);
  return found;
}

async function until(fact: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!(await fact())) {
    if (performance.now() > deadline) throw new Error(`it never was: ${what}`);
    await wait(25);
  }
}

const stopped = async (pair: FollowedPair, name: string): Promise<void> =>
  until(async () => (await relation(pair, name)).state === 'stopped', `${name} has stopped`);

/** As the command does it. */
async function bringBack(
  pair: FollowedPair,
  kind: 'resume' | 'reseed',
  ...names: readonly string[]
): Promise<void> {
  await using target = await openSession(pair.target.endpoint, { applicationName: 'test' });
  const asked = returnTables(
    {
      target,
      shadowId: pair.shadow.shadowId,
      clock: systemClock,
      report: () => undefined,
      signal: AbortSignal.timeout(DEADLINE_MS),
    },
    kind,
    names.map((name) => ({ schema: 'public', name })),
  );
  // A follower that has failed answers nobody.
  await Promise.race([
    asked,
    pair.ended.then((error) => {
      throw error instanceof Error ? error : new Error('following has ended');
    }),
  ]);
}

/** Production goes on meanwhile, each statement a transaction, until disposed of. */
async function load(
  pair: FollowedPair,
  statements: (round: number) => readonly string[],
): Promise<AsyncDisposable & { readonly rounds: () => number }> {
  const session = await openSession(pair.source.endpoint, { applicationName: 'test load' });
  const over = new AbortController();
  let round = 0;
  const running = (async () => {
    for (; !over.signal.aborted; round++) {
      for (const sql of statements(round)) await session.query(sql);
    }
  })();
  return {
    rounds: () => round,
    async [Symbol.asyncDispose]() {
      over.abort();
      await running;
      await session[Symbol.asyncDispose]();
    },
  };
}

async function dirtyTables(pair: FollowedPair): Promise<readonly string[]> {
  const rows = await pair.target.session.query(
    `SELECT table_name FROM understudy.dirty_table JOIN understudy.relation USING (shadow_id, source_oid)
      ORDER BY table_name`,
  );
  return rows.map((row) => row['table_name'] ?? '');
}

const insert = (session: Session, table: string, from: number, to: number) =>
  session.query(
    `INSERT INTO public.${table} (id, v) SELECT i, 'zqrow ' || i FROM generate_series(${from}, ${to}) i`,
  );

const TABLES = ['changed', 'steady'].map(
  (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);`,
);

describe.each(PAIRS)('a table that stopped, from %i to %i', (...versions) => {
  test('goes on where it stopped, while the others never do (trap 19)', async () => {
    await using pair = await followPair(versions, TABLES.join('\n'));
    const { session } = pair.source;
    await insert(session, 'changed', 1, 500);
    await insert(session, 'steady', 1, 500);
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    await using working = await load(pair, (round) => [
      `BEGIN; UPDATE public.changed SET n = n + 1 WHERE id % 50 = ${round % 50};
       UPDATE public.steady SET n = n + 1 WHERE id % 50 = ${round % 50}; COMMIT`,
      `INSERT INTO public.changed (id) VALUES (${1000 + round})`,
      `DELETE FROM public.changed WHERE id = ${990 + round}`,
    ]);
    await session.query('ALTER TABLE public.changed ADD extra text, DROP v');
    await stopped(pair, 'changed');
    await session.query(`UPDATE public.changed SET extra = 'zqrow ' || n WHERE id < 100`);
    const at = pair.follower.meter.appliedLsn;
    await until(async () => pair.follower.meter.appliedLsn > at, 'the others go on');

    await expect(bringBack(pair, 'resume', 'changed')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
      message: expect.stringContaining('"extra" text'),
    });
    await pair.target.session.query('ALTER TABLE public.changed ADD extra text, DROP v');
    await bringBack(pair, 'resume', 'changed');
    expect(working.rounds()).toBeGreaterThan(1);
    await working[Symbol.asyncDispose]();
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    expect(await relation(pair, 'changed')).toMatchObject({ state: 'copied', stop: undefined });
    expect(await dirtyTables(pair)).toEqual(['changed']);
    // It follows like any other.
    await session.query(`UPDATE public.changed SET extra = 'zqrow last'`);
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
  });

  test('is copied again, while the others go on, also one that was made again (trap 2)', async () => {
    await using pair = await followPair(
      versions,
      `${TABLES.join('\n')} CREATE TABLE public.made (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
       CREATE TABLE public.refers (id int PRIMARY KEY REFERENCES public.changed)`,
    );
    const { session } = pair.source;
    for (const name of ['changed', 'steady', 'made']) await insert(session, name, 1, 3_000);
    await session.query('INSERT INTO public.refers SELECT id FROM public.changed');
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    await pair.target.session.query(
      `SET session_replication_role = replica; DELETE FROM public.changed WHERE id <= 1000; RESET session_replication_role`,
    );
    await using working = await load(pair, (round) => [
      `BEGIN; UPDATE public.changed SET n = n + 1 WHERE id % 50 = ${round % 50};
       UPDATE public.steady SET n = n + 1 WHERE id % 50 = ${round % 50}; COMMIT`,
    ]);
    await stopped(pair, 'changed');
    await session.query(
      `DROP TABLE public.made; CREATE TABLE public.made (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0)`,
    );
    await insert(session, 'made', 5_000, 6_000);
    await pair.target.session.query(
      `UPDATE understudy.relation SET state = 'stopped', stop_message = 'gone', stop_code = 'TABLE_CHANGED',
              waits_for = 'reseed' WHERE table_name = 'made'`,
    );
    await expect(bringBack(pair, 'resume', 'made')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
    });
    await bringBack(pair, 'reseed', 'changed', 'made');
    await working[Symbol.asyncDispose]();
    await insert(session, 'made', 7_000, 7_010);
    const names = ['public.changed', 'public.steady', 'public.made', 'public.refers'];
    expect(await differences(pair, ...names)).toEqual([]);
    await expect(bringBack(pair, 'reseed', 'steady')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
      message: expect.stringContaining('has not stopped'),
    });
  });
});
