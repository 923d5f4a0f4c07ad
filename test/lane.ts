import { setTimeout as wait } from 'node:timers/promises';

import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { systemClock } from '#src/lib/clock.ts';
import { type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';
import { returnTables } from '#src/shadow/return-tables.ts';

import type { FollowedPair } from './follower.ts';

const DEADLINE_MS = 30_000;

export async function relation(pair: FollowedPair, name: string): Promise<RelationRecord> {
  const records = await readRelationRecords(pair.target.session, pair.shadow.shadowId);
  const found = records.findLast((record) => record.name === name);
  if (found === undefined) throw new Error(`no relation ${name}`);
  return found;
}

export async function until(fact: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!(await fact())) {
    if (performance.now() > deadline) throw new Error(`it never was: ${what}`);
    await wait(25);
  }
}

export const stopped = async (pair: FollowedPair, name: string): Promise<void> =>
  until(async () => (await relation(pair, name)).state === 'stopped', `${name} has stopped`);

/** As the command does it. */
export async function bringBack(
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
export async function load(
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

export async function dirtyTables(pair: FollowedPair): Promise<readonly string[]> {
  const rows = await pair.target.session.query(
    `SELECT table_name FROM understudy.dirty_table JOIN understudy.relation USING (shadow_id, source_oid)
      ORDER BY table_name`,
  );
  return rows.map((row) => row['table_name'] ?? '');
}

export const insert = (session: Session, table: string, from: number, to: number) =>
  session.query(
    `INSERT INTO public.${table} (id, v) SELECT i, 'zqrow ' || i FROM generate_series(${from}, ${to}) i`,
  );
