import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteIdentifier, quoteLiteral } from '#src/core/table.ts';

import type { Measure } from '../harness/rounds.ts';
import { inDatabase } from '../harness/servers.ts';
import { type Backlog, waitForMarker } from './backlog.ts';

/**
 * Postgres's own subscription on the same slot: from its start until the marker is there. Its worker
 * commits with synchronous_commit=off unless told otherwise, as ours does.
 * https://www.postgresql.org/docs/current/sql-createsubscription.html
 */
export async function runNative(
  options: {
    readonly backlog: Backlog;
    readonly target: Endpoint;
    readonly slot: string;
    readonly isBinary: boolean;
  },
  measure: Measure,
): Promise<void> {
  const { backlog, target, slot, isBinary } = options;
  const name = quoteIdentifier(slot);
  await inDatabase(target, async (session) => {
    await session.query(
      `CREATE SUBSCRIPTION ${name} CONNECTION ${quoteLiteral(conninfo(backlog.source))}
         PUBLICATION ${quoteIdentifier(backlog.publication.name)}
         WITH (create_slot = false, copy_data = false, enabled = false,
               slot_name = ${quoteLiteral(slot)}, binary = ${isBinary})`,
    );
    try {
      await measure(async () => {
        const startedAt = performance.now();
        await session.query(`ALTER SUBSCRIPTION ${name} ENABLE`);
        await waitForMarker(target);
        return { seconds: (performance.now() - startedAt) / 1000, cpuSeconds: undefined };
      });
    } finally {
      await session.query(`ALTER SUBSCRIPTION ${name} DISABLE`);
      // The slot is the benchmark's to drop.
      await session.query(`ALTER SUBSCRIPTION ${name} SET (slot_name = NONE)`);
      await session.query(`DROP SUBSCRIPTION ${name}`);
    }
  });
}

function conninfo({ host, port, database, user, password }: Endpoint): string {
  return `host=${host} port=${port} dbname=${database} user=${user} password=${password}`;
}
