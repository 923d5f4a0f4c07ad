import { expect, test } from 'vitest';

import { createTestDatabase, startTestServer } from '#test/postgres.ts';

import { findDifferences, withClient } from './compare.ts';
import { watchMemory } from './memory.ts';
import { createShadow, FOLLOWING, until } from './shadow.ts';

/** What README.md promises for all of our processes together. */
const MEGABYTES_MAX = 400;
const MEGABYTE = 2 ** 20;

/** 40 MB of rows in one transaction, which is streamed, and 80 MB in small ones. */
const LOAD = `
  INSERT INTO app.item SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 40000) i;
  DO $$ BEGIN
    FOR n IN 1..80 LOOP
      INSERT INTO app.item SELECT n * 1000000 + i, repeat(md5(i::text), 32) FROM generate_series(1, 1000) i;
      COMMIT;
    END LOOP;
  END $$`;

test.runIf(process.platform === 'linux')(
  'a target that does not take anything fills the disk, not the memory (pains 14 and 18)',
  { timeout: 180_000 },
  async () => {
    await using source = await createTestDatabase(
      17,
      'CREATE SCHEMA app; CREATE TABLE app.item (id int PRIMARY KEY, payload text NOT NULL)',
    );
    await using server = await startTestServer({ version: 17 });
    await using shadow = await createShadow(source.endpoint, server.endpoint);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await using memory = watchMemory(clone.processId);

    const target = async (sql: string): Promise<Record<string, string>[]> =>
      withClient(server.endpoint, async (client) => (await client.query(sql)).rows);
    const [apply] = await target(
      `SELECT pid FROM pg_stat_activity WHERE application_name ~ '^understudy [0-9a-f]{8} apply$'`,
    );
    const processId = Number(apply?.['pid']);
    process.kill(processId, 'SIGSTOP');
    for (const statement of LOAD.split(/;\n(?= {2}DO)/)) await source.session.query(statement);
    await until('the spool holds it all', async () => {
      const [row] = await target('SELECT spool_bytes FROM understudy.position');
      return Number(row?.['spool_bytes']) > 120 * MEGABYTE;
    });
    const { rows: before } = await withClient(server.endpoint, (client) =>
      client.query('SELECT count(*)::int AS n FROM app.item'),
    );
    expect(before).toEqual([{ n: 0 }]);

    process.kill(processId, 'SIGCONT');
    await until(
      'the target has it all',
      async () => (await findDifferences(source.endpoint, server.endpoint)).length === 0,
      90_000,
    );
    expect(clone.hasEnded()).toBe(false);
    const { megabytes, parts } = memory.peak();
    expect(megabytes < MEGABYTES_MAX ? 'within bounds' : parts).toBe('within bounds');
  },
);
