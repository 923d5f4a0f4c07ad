import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { withClient } from './compare.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import { createShadow, FOLLOWING, settle, until, verify } from './shadow.ts';
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
