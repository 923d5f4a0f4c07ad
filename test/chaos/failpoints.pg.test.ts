import { expect, test } from 'vitest';

import type { Ended } from '#test/command.ts';
import { isFull } from '#test/full.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { snapshotCatalog, withClient } from './compare.ts';
import { readFailpointNames } from './failpoint-names.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import {
  createShadow,
  describeEnd,
  endOf,
  FOLLOWING,
  settle,
  type Shadow,
  until,
  verify,
} from './shadow.ts';
import { startWorkload } from './workload.ts';

/** Where in the life of a shadow the failpoints are met, by the first part of their names. */
const BEGIN = ['clone', 'identity', 'schema', 'largeObjects', 'copy'];
const FOLLOW = ['chunking', 'step', 'sequences', 'spool', 'monitor', 'receive', 'apply'];
const STOP = ['stop'];
const RETURN = ['lane', 'reseed'];
const FENCE = ['request'];
const VERIFY = ['verify', 'repair', 'fence'];
const DROP = ['drop'];
const STAGES = [...BEGIN, ...FOLLOW, ...STOP, ...RETURN, ...FENCE, ...VERIFY, ...DROP];

/**
 * What is done once is passed for good after its `after`, so `before` comes first in a family, and in the
 * copy, where each death leaves less to do, in the order of the work.
 */
function rank(name: string): number {
  const phase = PHASES.findIndex((pattern) => pattern.test(name));
  return 2 * phase + Number(!name.includes('.before'));
}

const PHASES = [
  /^clone\..*Publication/,
  /^clone\..*Slot$/,
  /^clone\..*(Keepers|Progress|Snapshot)$/,
  /^copy\..*Start$/,
  /^copy\..*(Adopt|PartCommit)$/,
  /^copy\.after(Claim|SourceCopy)$/,
  /^copy\..*(Hold|Restart)$/,
  /^copy\..*Finish$/,
  /^copy\..*End$/,
  /^lane\.(?!.*(HandOver|Stop))/,
  /^lane\..*HandOver$/,
  /^lane\..*Stop$/,
  /^reseed\..*Publication$/,
  /^reseed\..*Snapshot$/,
  /^reseed\.afterCopy$/,
  /^drop\.afterTarget$/,
];

/** Of over a hundred, one in so many in npm test, from all over the source; test:full walks all. */
const SHARE = 4;

/** Reached only by a copy whose snapshot is gone (trap 1). */
const isOfLostSnapshot = (name: string): boolean => /^copy\..*(Hold|Restart)$/.test(name);

/** Die there, whatever is done. The exit code of a process that was killed is null. */
async function dieAt(shadow: Shadow, name: string): Promise<void> {
  await using clone = shadow.start({ failpoints: `${name}:1` });
  const ended = await endOf(clone, `at ${name}`);
  if (ended.code !== null) throw new Error(`nobody died at ${name}: ${describeEnd(ended)}`);
}

/**
 * Parts of the copy that are on record: each is copied once, unless it was under way when we died, or its
 * table was not complete when the snapshot was lost (trap 1).
 */
async function copiedParts(
  shadow: Shadow,
  isOfWholeTables: boolean,
): Promise<ReadonlyMap<string, string>> {
  return withClient(shadow.target, async (client) => {
    const { rows } = await client.query(
      `SELECT source_oid || '/' || generation || '/' || part AS part, copied_at::text AS at
         FROM understudy.part JOIN understudy.relation USING (shadow_id, source_oid, generation)
        WHERE state = 'copied' OR NOT $1`,
      [isOfWholeTables],
    );
    return new Map(rows.map(({ part, at }) => [part, at]));
  });
}

/** A copy from a snapshot that is older than the slot lacks what happened in between. */
async function readTooOldSnapshots(shadow: Shadow): Promise<unknown[]> {
  return withClient(shadow.target, async (client) => {
    const { rows } = await client.query(
      `SELECT schema_name, table_name FROM understudy.relation JOIN understudy.shadow USING (shadow_id)
        WHERE start_lsn < consistent_lsn`,
    );
    return rows;
  });
}

async function endKeepers(shadow: Shadow): Promise<void> {
  await withClient(shadow.source, async (client) =>
    client.query(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE '% keeper'`),
  );
}

/**
 * While nobody follows, a table that does is the source as of the progress, and one in a lane as of that
 * of the lane: let it have stopped there, and let somebody have asked to bring it back.
 */
async function askToReturn(shadow: Shadow, kind: 'resume' | 'reseed'): Promise<void> {
  await withClient(shadow.target, async (client) =>
    client.query(
      `UPDATE understudy.relation r
          SET state = 'stopped', is_in_lane = false, stop_code = 'TABLE_CHANGED', stop_message = 'test',
              waits_for = 'resume', is_spooled = true, applied_lsn = NULL,
              stop_lsn = coalesce(r.applied_lsn, s.applied_lsn)
         FROM understudy.progress s
        WHERE s.shadow_id = r.shadow_id AND r.table_name = 'label' AND r.state IN ('copied', 'catching up');
       DELETE FROM understudy.request WHERE kind IN ('resume', 'reseed');
       INSERT INTO understudy.request (shadow_id, kind, state, tables, deadline)
       SELECT shadow_id, '${kind}', 'open', '[{"schema": "app", "name": "label"}]', now() + interval '1 hour'
         FROM understudy.shadow`,
    ),
  );
}

/**
 * While nobody follows, let the table stop, and the others go on without it: a lane has something to apply.
 */
async function leaveBehind(shadow: Shadow): Promise<void> {
  await askToReturn(shadow, 'resume');
  await withClient(shadow.target, async (client) => client.query('DELETE FROM understudy.request'));
  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  const changed = await withClient(shadow.source, async (client) => {
    await client.query('UPDATE app.label SET uses = uses + 1');
    const { rows } = await client.query('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    return rows[0].lsn;
  });
  await until('the others have gone on', async () =>
    withClient(shadow.target, async (client) => {
      const { rows } = await client.query(
        'SELECT FROM understudy.position WHERE applied_lsn > $1::pg_lsn',
        [changed],
      );
      return rows.length === 1;
    }),
  );
  clone.kill('SIGKILL');
  await clone.ended;
}

/** The lane meets a row that is not there. */
async function divergeReturning(shadow: Shadow): Promise<void> {
  await withClient(shadow.target, async (client) => client.query('DELETE FROM app.label'));
}

/** Rows that production changes all the time are not there. */
async function diverge(shadow: Shadow): Promise<void> {
  await withClient(shadow.target, async (client) => client.query('DELETE FROM app.account'));
}

/** Somebody writes to the target: rows that production leaves alone. */
async function tamper(shadow: Shadow): Promise<void> {
  await withClient(shadow.target, async (client) =>
    client.query(`DELETE FROM app.bulk WHERE id IN (-10, -11);
                  UPDATE app.bulk SET payload = 'tampered' WHERE id = -20;
                  INSERT INTO app.bulk VALUES (-99999999, 0, 'added') ON CONFLICT DO NOTHING`),
  );
}

test(
  `one shadow survives a death at ${isFull ? 'every failpoint' : 'many failpoints'}, and leaves nothing behind`,
  { timeout: 900_000 },
  async () => {
    const names = await readFailpointNames();
    // A new family of failpoints needs its place here.
    expect(names.filter((name) => !STAGES.includes(name.split('.')[0] ?? ''))).toEqual([]);
    const walked = isFull ? names : names.filter((_, i) => i % SHARE === 0);
    const order = walked.toSorted((a, b) => rank(a) - rank(b));
    const of = (stages: readonly string[]): string[] =>
      stages.flatMap((stage) => order.filter((name) => name.startsWith(`${stage}.`)));

    await using source = await createTestDatabase(
      14,
      CHAOS_SCHEMA + bulkRows(20_000) + `SELECT lo_from_bytea(0, '\\x7a71726f77')`,
    );
    await using target = await createTestDatabase(18);
    // So that large transactions are streamed before they commit.
    await source.session.query(
      `ALTER DATABASE ${source.name} SET logical_decoding_work_mem = '64kB'`,
    );
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    const before = await snapshotCatalog(source.endpoint);
    await using workload = await startWorkload(source.endpoint, 1);
    const fenced: Promise<Ended | undefined>[] = [];

    for (const name of [...of(BEGIN), ...of(FOLLOW)]) {
      const isLost = isOfLostSnapshot(name);
      const parts = name.startsWith('copy.') ? await copiedParts(shadow, isLost) : undefined;
      if (isLost) await endKeepers(shadow);
      await dieAt(shadow, name);
      if (parts === undefined) continue;
      const now = await copiedParts(shadow, isLost);
      for (const [part, at] of parts) expect(`${part} ${now.get(part)}`).toBe(`${part} ${at}`);
    }
    for (const name of of(STOP)) {
      await diverge(shadow);
      await dieAt(shadow, name);
    }
    await leaveBehind(shadow);
    for (const name of of(RETURN)) {
      await askToReturn(shadow, name.startsWith('lane.') ? 'resume' : 'reseed');
      if (name.endsWith('Stop')) await divergeReturning(shadow);
      await dieAt(shadow, name);
    }
    for (const name of of(FENCE)) {
      await using holder = shadow.start({ failpoints: `${name}:1` });
      const asked =
        name === 'request.afterVoid'
          ? Promise.resolve(undefined)
          : holder.waitFor(FOLLOWING).then(
              async () => shadow.run(['verify']),
              // It may die of the fence that it owes to the verification before.
              () => undefined,
            );
      const ended = await endOf(holder, `at ${name}`);
      expect(`${name} ${ended.code}`).toBe(`${name} null`);
      fenced.push(asked);
    }
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    // Each was told that the follower had begun anew, or waited for a fence of the next one.
    for (const ended of await Promise.all(fenced)) expect(ended?.code ?? 0).not.toBe(null);
    expect(await readTooOldSnapshots(shadow)).toEqual([]);
    for (const name of of(VERIFY)) {
      if (name.startsWith('repair.')) await tamper(shadow);
      const ended = await shadow.run(['verify', '--full', '--repair'], `${name}:1`);
      expect(`${name} ${ended.code}`).toBe(`${name} null`);
    }
    await tamper(shadow);
    expect((await shadow.run(['verify', '--full'])).code).toBe(3);
    expect((await shadow.run(['verify', '--repair'])).code).toBe(0);
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
    expect(workload.committed()).toBeGreaterThan(100);

    for (const name of of(DROP)) {
      const ended = await shadow.run(['drop'], `${name}:1`);
      expect(`${name} ${ended.code}`).toBe(`${name} null`);
    }
    expect((await clone.ended).code).toBe(0);
    const last = await shadow.run(['drop']);
    // The last failpoint of all is behind the end of the work.
    const isDone = of(DROP).includes('drop.afterTarget');
    expect(last.stdout).toContain(isDone ? 'SHADOW_MISSING' : '"dropped"');
    expect(await snapshotCatalog(source.endpoint)).toEqual(before);
  },
);
