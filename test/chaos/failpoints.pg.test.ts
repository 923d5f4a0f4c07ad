import { expect, test } from 'vitest';

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
  verify,
} from './shadow.ts';
import { startWorkload } from './workload.ts';

/** Where in the life of a shadow the failpoints are met, by the first part of their names. */
const CLONE = ['clone', 'schema', 'copy', 'step', 'spool', 'receive', 'apply'];
const VERIFY = ['verify', 'repair', 'fence'];
const DROP = ['drop'];
const STAGES = [...CLONE, ...VERIFY, ...DROP];

/** Die there, whatever is done. The exit code of a process that was killed is null. */
async function dieAt(shadow: Shadow, name: string): Promise<void> {
  await using clone = shadow.start({ failpoints: `${name}:1` });
  const ended = await endOf(clone, `at ${name}`);
  if (ended.code !== null) throw new Error(`nobody died at ${name}: ${describeEnd(ended)}`);
}

/** Parts of the copy that are on record: each is copied once, unless it was under way when we died (trap 1). */
async function copiedParts(shadow: Shadow): Promise<ReadonlyMap<string, string>> {
  return withClient(shadow.target, async (client) => {
    const { rows } = await client.query(
      `SELECT source_oid || '/' || generation || '/' || part AS part, copied_at::text AS at FROM understudy.part`,
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

/** Somebody writes to the target: rows that production leaves alone. */
async function tamper(shadow: Shadow): Promise<void> {
  await withClient(shadow.target, async (client) =>
    client.query(`DELETE FROM app.bulk WHERE id IN (-10, -11);
                  UPDATE app.bulk SET payload = 'tampered' WHERE id = -20;
                  INSERT INTO app.bulk VALUES (-99999999, 0, 'added') ON CONFLICT DO NOTHING`),
  );
}

test(
  'one shadow survives a death at every failpoint, and leaves nothing behind',
  { timeout: 300_000 },
  async () => {
    const names = await readFailpointNames();
    // What is done once is passed for good after its `after`, so `before` comes first.
    const order = names.toSorted(
      (a, b) => Number(b.includes('.before')) - Number(a.includes('.before')),
    );
    const of = (stages: readonly string[]): string[] =>
      stages.flatMap((stage) => order.filter((name) => name.startsWith(`${stage}.`)));
    // A new family of failpoints needs its place here.
    expect(of(STAGES).toSorted()).toEqual(names.toSorted());

    await using source = await createTestDatabase(14, CHAOS_SCHEMA + bulkRows(20_000));
    await using target = await createTestDatabase(18);
    // So that large transactions are streamed before they commit.
    await source.session.query(
      `ALTER DATABASE ${source.name} SET logical_decoding_work_mem = '64kB'`,
    );
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    const before = await snapshotCatalog(source.endpoint);
    await using workload = await startWorkload(source.endpoint, 1);

    for (const name of of(CLONE)) {
      const parts = name.startsWith('copy.') ? await copiedParts(shadow) : undefined;
      await dieAt(shadow, name);
      if (parts === undefined) continue;
      const now = await copiedParts(shadow);
      for (const [part, at] of parts) expect(`${part} ${now.get(part)}`).toBe(`${part} ${at}`);
    }
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
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
    // The last failpoint is behind the end of the work.
    expect(last.stdout).toContain('SHADOW_MISSING');
    expect(await snapshotCatalog(source.endpoint)).toEqual(before);
  },
);
