import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { withClient } from './compare.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import { createShadow, endOf, errorOf, FOLLOWING, settle, until, verify } from './shadow.ts';
import { startWorkload } from './workload.ts';

/** The names of our connections, without the shadow's id. */
async function partsOf(endpoint: Endpoint): Promise<readonly string[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      `SELECT DISTINCT regexp_replace(application_name, '^understudy [0-9a-f]{8} ?', '') AS part
         FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ '^understudy [0-9a-f]{8}' ORDER BY 1`,
    );
    return rows.map(({ part }) => part);
  });
}

async function terminate(endpoint: Endpoint, part: string): Promise<number> {
  return withClient(endpoint, async (client) => {
    const { rowCount } = await client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ ('^understudy [0-9a-f]{8} ?' || $1 || '$')`,
      [part],
    );
    return rowCount ?? 0;
  });
}

test(
  'a shadow that was made by this very process outlives the loss of each of its connections',
  { timeout: 120_000 },
  async () => {
    await using source = await createTestDatabase(15, CHAOS_SCHEMA + bulkRows(5000));
    await using target = await createTestDatabase(17);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using workload = await startWorkload(source.endpoint, 2);
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    for (const endpoint of [source.endpoint, target.endpoint]) {
      for (const part of await partsOf(endpoint)) {
        await until(
          `a connection "${part}"`,
          async () => clone.hasEnded() || (await terminate(endpoint, part)) > 0,
        );
      }
    }
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test(
  'a copy outlives the loss of each of its connections, keepers included',
  { timeout: 120_000 },
  async () => {
    // A table that is locked keeps the copy where it is, once the larger ones before it are copied.
    await using source = await createTestDatabase(
      14,
      `${CHAOS_SCHEMA} ${bulkRows(60_000)} CREATE TABLE app.parked (id int PRIMARY KEY, payload text);
       INSERT INTO app.parked SELECT i, 'car ' || i FROM generate_series(1, 1000) i;`,
    );
    await using target = await createTestDatabase(15);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    await using workload = await startWorkload(source.endpoint, 9);
    await using first = shadow.start({ more: ['--jobs', '1'] });
    await withClient(source.endpoint, async (client) => {
      await first.waitFor('"phase":"copying"');
      await client.query('BEGIN; LOCK TABLE app.parked IN ACCESS EXCLUSIVE MODE');
      const waits = async (): Promise<boolean> => {
        const { rows } = await client.query(
          `SELECT FROM pg_locks WHERE relation = 'app.parked'::regclass AND NOT granted`,
        );
        return rows.length > 0;
      };
      await until('the copy waits', waits);
      expect(await terminate(source.endpoint, 'copy')).toBeGreaterThan(0);
      await until('the copy waits again', waits);
      expect(await terminate(target.endpoint, 'copy')).toBeGreaterThan(0);
      await until('the copy waits again', waits);
      // Without its snapshot the copy of the table starts again (trap 1), as soon as it can look at it.
      expect(await terminate(source.endpoint, 'keeper')).toBeGreaterThan(0);
      expect(await terminate(source.endpoint, 'copy')).toBeGreaterThan(0);
      await until('the copy waits again', waits);
      expect(first.hasEnded()).toBe(false);
      // What the lease hangs on ends the run, whatever it waits for.
      expect(await terminate(target.endpoint, 'control')).toBe(1);
      expect(errorOf(await endOf(first))).toBe('CONNECTION_LOST');
    });
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await workload.stop();
    expect(await settle(shadow, clone)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);
