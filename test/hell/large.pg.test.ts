import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { findDifferences, withClient } from '#test/chaos/compare.ts';
import { watchMemory } from '#test/chaos/memory.ts';
import {
  type Clone,
  createShadow,
  describeEnd,
  FOLLOWING,
  type Shadow,
  until,
} from '#test/chaos/shadow.ts';
import { isFull, testFull } from '#test/full.ts';
import { createTestDatabase, startTestServer } from '#test/postgres.ts';

/** For all of our processes together, however large a transaction is (docs/benchmarks.md). */
const MEGABYTES_MAX = 450;

const VALUE_MEGABYTES = 100;
/** A value is received, kept and applied as one message, and held as often as there are stages. */
const VALUE_COPIES_MAX = 5;

const MARK = 'CREATE TABLE app.mark (id int PRIMARY KEY, v text)';

/** Once a later transaction is on the target, everything before it is. */
async function untilApplied(shadow: Shadow, clone: Clone, id: number) {
  await withClient(shadow.source, async (client) =>
    client.query(`INSERT INTO app.mark VALUES ($1, 'zqrow')`, [id]),
  );
  await until(
    `mark ${id} on the target`,
    async () => {
      if (clone.hasEnded()) return true;
      return withClient(shadow.target, async (client) => {
        const { rows } = await client.query('SELECT FROM app.mark WHERE id = $1', [id]);
        return rows.length > 0;
      });
    },
    isFull ? 600_000 : 120_000,
  );
}

test.runIf(process.platform === 'linux')(
  `a transaction of ${isFull ? '5 million' : '200,000'} rows is streamed in bounded memory, with a part that is rolled back`,
  { timeout: 900_000 },
  async () => {
    const rows = isFull ? 5_000_000 : 200_000;
    await using source = await createTestDatabase(
      17,
      `CREATE SCHEMA app; ${MARK};
       CREATE TABLE app.item (id int PRIMARY KEY, n int NOT NULL, v text NOT NULL)`,
    );
    await using target = await createTestDatabase(18);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await using memory = watchMemory(clone.processId);
    await withClient(source.endpoint, async (client) => {
      await client.query('BEGIN');
      await client.query(
        `INSERT INTO app.item SELECT i, 0, 'zqrow ' || md5(i::text) FROM generate_series(1, ${rows}) i`,
      );
      await client.query('SAVEPOINT never');
      await client.query(`UPDATE app.item SET v = 'zqrow: never' WHERE id <= ${rows / 4}`);
      await client.query('ROLLBACK TO SAVEPOINT never');
      await client.query(`UPDATE app.item SET n = 1 WHERE id % 100 = 0`);
      // Meanwhile another commits: it must not wait for the large one.
      await untilApplied(shadow, clone, 1);
      await client.query('COMMIT');
    });
    await untilApplied(shadow, clone, 2);
    expect(clone.hasEnded() ? describeEnd(await clone.ended) : 'follows').toBe('follows');
    expect(await findDifferences(source.endpoint, target.endpoint)).toEqual([]);
    const { megabytes, parts } = memory.peak();
    expect(megabytes < MEGABYTES_MAX ? 'within bounds' : parts).toBe('within bounds');
  },
);

const LARGE_VALUES = `
CREATE TABLE app.large (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t text, b bytea, j jsonb);
ALTER TABLE app.large ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER j SET STORAGE EXTERNAL`;

/** Hashed column by column: a whole row of them as text is twice as long. */
async function readLarge(endpoint: Endpoint): Promise<readonly unknown[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      'SELECT id, n, md5(t) AS t, md5(b) AS b, md5(j::text) AS j FROM app.large ORDER BY id',
    );
    return rows;
  });
}

/** A value of each of these types, in rows of their own. */
function insertLarge(first: number, columns: readonly ('t' | 'b' | 'j')[]): readonly string[] {
  return columns.map((column, i) => {
    const id = first + i;
    const text = `repeat('zqrow-${id} ', ${Math.floor((VALUE_MEGABYTES * 2 ** 20) / 9)})`;
    const value = {
      t: text,
      b: `convert_to(${text}, 'UTF8')`,
      j: `jsonb_build_object('k', ${text})`,
    }[column];
    return `INSERT INTO app.large (id, ${column}) VALUES (${id}, ${value})`;
  });
}

test.runIf(process.platform === 'linux')(
  `values of ${VALUE_MEGABYTES} MB are copied and followed, as text, bytea and jsonb`,
  { timeout: 900_000 },
  async () => {
    await using source = await createTestDatabase(
      18,
      `CREATE SCHEMA app; ${MARK}; ${LARGE_VALUES}; ${insertLarge(10, isFull ? ['t', 'b', 'j'] : ['t']).join(';')}`,
    );
    await using target = await createTestDatabase(18);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using clone = shadow.start();
    await using memory = watchMemory(clone.processId);
    await clone.waitFor(FOLLOWING);
    for (const sql of insertLarge(20, isFull ? ['b', 'j', 't'] : ['b', 'j']))
      await source.session.query(sql);
    await untilApplied(shadow, clone, 1);
    // Unchanged values are not sent, and a change of the key leaves them.
    await source.session.query('UPDATE app.large SET n = n + 1');
    await source.session.query('UPDATE app.large SET id = -id WHERE id = 20');
    if (isFull)
      await source.session.query(`UPDATE app.large SET t = t || 'zqrow: more' WHERE id = 10`);
    await source.session.query('DELETE FROM app.large WHERE id = 21');
    await untilApplied(shadow, clone, 2);
    expect(clone.hasEnded() ? describeEnd(await clone.ended) : 'follows').toBe('follows');
    expect(await readLarge(target.endpoint)).toEqual(await readLarge(source.endpoint));
    const { megabytes, parts } = memory.peak();
    const bound = MEGABYTES_MAX + VALUE_COPIES_MAX * VALUE_MEGABYTES;
    expect(megabytes < bound ? 'within bounds' : parts).toBe('within bounds');
  },
);

testFull(
  'a transaction that is left open for long stalls nobody, keeps the WAL that it needs, and arrives',
  { timeout: 240_000 },
  async () => {
    // On a shared server it would keep the slots of other tests from being made.
    await using server = await startTestServer({ version: 16 });
    const schema = `CREATE SCHEMA app; ${MARK}; CREATE TABLE app.item (id int PRIMARY KEY, v text)`;
    await using source = await createTestDatabase(16, schema, { server: server.endpoint });
    await using target = await createTestDatabase(16);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using first = shadow.start();
    await first.waitFor(FOLLOWING);
    await withClient(source.endpoint, async (idle) => {
      const { rows } = await idle.query('SELECT pg_current_wal_lsn() AS begin');
      await idle.query(`BEGIN; INSERT INTO app.item VALUES (1, 'zqrow: early')`);
      // Others write 20 MB meanwhile, checkpoints come, and all of it is applied.
      for (let id = 1; id <= 20; id += 1) {
        await source.session.query(
          `INSERT INTO app.item SELECT ${id} * 100000 + i, 'zqrow' || repeat('v', 1000) FROM generate_series(1, 1000) i`,
        );
        await source.session.query('SELECT pg_switch_wal()');
      }
      await source.session.query('CHECKPOINT');
      await untilApplied(shadow, first, 1);
      const slot = async (): Promise<{ isKept: boolean; isConfirmed: boolean }> => {
        const found = await source.session.query(
          `SELECT restart_lsn <= $1 AS kept, confirmed_flush_lsn > $1 AS confirmed FROM pg_replication_slots
            WHERE database = current_database() AND NOT temporary`,
          [rows[0].begin],
        );
        return { isKept: found[0]?.['kept'] === 't', isConfirmed: found[0]?.['confirmed'] === 't' };
      };
      await until('what was applied is confirmed', async () => (await slot()).isConfirmed);
      expect(await slot()).toEqual({ isKept: true, isConfirmed: true });
      await until('status shows the WAL that the source keeps', async () => {
        const { stdout } = await shadow.status();
        return Number(/"sourceWalBytes":(\d+)/.exec(stdout)?.[1]) > 20 * 2 ** 20;
      });
      // What it wrote before is read from the source again after a crash.
      first.kill('SIGKILL');
      await first.ended;
      await using second = shadow.start();
      await second.waitFor(FOLLOWING);
      await idle.query(`INSERT INTO app.item VALUES (2, 'zqrow: late')`);
      await untilApplied(shadow, second, 2);
      await idle.query('COMMIT');
      await untilApplied(shadow, second, 3);
      expect(await findDifferences(source.endpoint, target.endpoint)).toEqual([]);
      await until('the source keeps it no longer', async () => !(await slot()).isKept);
    });
  },
);
