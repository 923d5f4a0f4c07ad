import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import type { Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { systemClock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { NO_FAILPOINTS } from '#src/lib/failpoint.ts';
import { enterReseed } from '#src/shadow/follow/table-states.ts';
import { addRelations, readRelationRecords, recordedColumns } from '#src/shadow/ledger.ts';
import { type FollowedPair, followPair } from '#test/follower.ts';
import { insert } from '#test/lane.ts';
import { recordingLogger } from '#test/output.ts';

import { reseedTables } from './reseed.ts';

const NAMES = ['kept', 'again', 'late'];
const ddl = (name: string): string => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text);`;

/** One attempt of the lanes' at copying; with a name, it fails there at the second table. */
async function attempt(pair: FollowedPair, failsAt?: string): Promise<void> {
  const records = await readRelationRecords(pair.target.session, pair.shadow.shadowId);
  let hits = 0;
  const hit = (name: string): void => {
    if (name === failsAt && ++hits === 2) throw new OperatorError('CONNECTION_LOST', 'by the test');
  };
  await reseedTables(
    {
      source: pair.source.endpoint,
      target: pair.target.endpoint,
      shadow: pair.shadow,
      jobs: 1,
      clock: systemClock,
      log: recordingLogger(),
      report: () => undefined,
      failpoints: failsAt === undefined ? NO_FAILPOINTS : { hit },
    },
    records.filter(({ isInLane, state }) => isInLane && state !== 'catching up'),
    AbortSignal.timeout(60_000),
  );
}

async function enter(pair: FollowedPair, tables: readonly Table[]): Promise<void> {
  const { session: target } = pair.target;
  const { shadowId } = pair.shadow;
  const [lease] = await target.query('SELECT epoch FROM understudy.lease');
  for (const table of tables) {
    await target.query(
      `UPDATE understudy.relation SET state = 'stopped', waits_for = 'reseed', stop_message = 'test'
        WHERE table_name = $1`,
      [table.name],
    );
    const writer = { target, shadowId, epoch: BigInt(lease?.['epoch'] ?? 0) };
    const { schema, name, key } = table;
    await enterReseed(writer, {
      schema,
      name,
      key,
      sourceOid: table.oid,
      columns: recordedColumns(table),
    });
  }
}

async function copies(pair: FollowedPair) {
  const rows = await pair.target.session.query(
    `SELECT table_name, state, generation FROM understudy.relation ORDER BY table_name`,
  );
  const counts: Record<string, unknown> = {};
  for (const row of rows) {
    const name = row['table_name'] ?? '';
    const [count] = await pair.target.session.query(`SELECT count(*) AS n FROM public.${name}`);
    counts[name] = [row['state'], Number(row['generation']), Number(count?.['n'])];
  }
  return counts;
}

test('a table has no snapshot from before its publication (traps 1, 7)', async () => {
  // One that joined a copy whose earlier attempt had died was bound to that one's snapshot. What was
  // written between the snapshot and the publication was in neither.
  await using pair = await followPair([18, 18], NAMES.slice(0, 2).map(ddl).join(''));
  await pair.stop();
  const { session: source } = pair.source;
  await source.query(ddl('late'));
  await pair.target.session.query(ddl('late'));
  for (const name of NAMES) await insert(source, name, 1, 10);
  const tables = await readTables(source, EVERYTHING);
  const named = (...names: readonly string[]) => tables.filter(({ name }) => names.includes(name));
  await enter(pair, named('kept', 'again'));
  await expect(attempt(pair, 'copy.afterRestart')).rejects.toMatchObject({
    code: 'CONNECTION_LOST',
  });
  expect(await copies(pair)).toEqual({ again: ['copying', 1, 0], kept: ['copying', 1, 0] });

  const { publicationName: publication } = pair.shadow;
  await source.query(`ALTER PUBLICATION ${publication} DROP TABLE public.again`);
  for (const name of NAMES) await insert(source, name, 11, 12);
  await addRelations(pair.target.session, pair.shadow.shadowId, named('late'));
  await attempt(pair);
  // The stream has rows 11 and 12 of `kept` alone.
  expect(await copies(pair)).toEqual({
    again: ['catching up', 2, 12],
    kept: ['catching up', 1, 10],
    late: ['catching up', 2, 12],
  });
});

test('a table that is asked for again has no snapshot of an attempt that was given up (trap 1)', async () => {
  await using pair = await followPair([18, 18], NAMES.map(ddl).join(''));
  await pair.stop();
  const { session: source } = pair.source;
  for (const name of NAMES) await insert(source, name, 1, 10);
  const tables = await readTables(source, EVERYTHING);
  await enter(pair, tables);
  await expect(attempt(pair, 'copy.beforeFinish')).rejects.toMatchObject({
    code: 'CONNECTION_LOST',
  });
  for (const name of NAMES) await insert(source, name, 11, 12);
  // Stopped and asked for: the spool has not kept what came between.
  await enter(pair, tables);
  await attempt(pair);
  expect(await copies(pair)).toEqual(
    Object.fromEntries(NAMES.map((name) => [name, ['catching up', 2, 12]])),
  );
});
