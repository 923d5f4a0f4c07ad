import { setTimeout as wait } from 'node:timers/promises';

import { Client } from 'pg';

import type { Endpoint } from '#src/core/endpoint.ts';

/**
 * Production's view of a shadow: a sampler on the source that sees whenever a session of production
 * waits for a lock that a session of ours holds or stands in front of it for.
 *
 *     pg_blocking_pids(production) ∩ sessions named understudy…   every 100 ms
 *
 * What `check` announces (source-locks of docs/checks.md) is allowed, for as long as it says;
 * every other wait is wrong, however short it was. What lasts less than a sample may be missed, so the
 * workload's own statements are timed, too.
 */
export type ProductionWatch = AsyncDisposable & {
  /** Stops; everything that was wrong, as sentences. */
  readonly end: () => Promise<readonly string[]>;
  /** Waits that were announced, for the log. */
  readonly announced: () => readonly string[];
};

/** One statement of production that stood behind one session of ours. */
type Wait = {
  readonly key: string;
  readonly waiting: string;
  readonly blocking: string;
  readonly mode: string;
  /** Else for a row, a transaction, an advisory lock. */
  readonly onTable: boolean;
  readonly relation: string;
  readonly milliseconds: number;
  readonly statement: string;
};

/**
 * Ours hold nothing stronger than ACCESS SHARE while they read a table, and SHARE UPDATE EXCLUSIVE while
 * the publication is made. Only what conflicts with these may wait, and not for long.
 */
const ANNOUNCED: readonly { readonly waiting: string; readonly millisecondsMax: number }[] = [
  { waiting: 'AccessExclusiveLock', millisecondsMax: 20_000 },
  { waiting: 'ExclusiveLock', millisecondsMax: 5_000 },
  { waiting: 'ShareRowExclusiveLock', millisecondsMax: 5_000 },
  { waiting: 'ShareLock', millisecondsMax: 5_000 },
  { waiting: 'ShareUpdateExclusiveLock', millisecondsMax: 5_000 },
];

const SAMPLE_MS = 100;
const STATEMENT_CHARACTERS_MAX = 80;

/** Sessions of the product itself, not those of the tests: `understudy check`, `understudy 0a1b2c3d copy`. */
const OURS = '^understudy( [0-9a-f]{8}.*| check| clone| verify| drop| status| identify| cancel)?$';

const WAITS_SQL = `
SELECT w.pid || ' ' || b.pid || ' ' || coalesce(w.query_start::text, '') AS key,
       w.application_name AS waiting, b.application_name AS blocking, l.mode, l.locktype = 'relation' AS "onTable",
       coalesce(l.relation::regclass::text, l.locktype) AS relation,
       (extract(epoch FROM clock_timestamp() - coalesce(l.waitstart, w.query_start)) * 1000)::float8 AS milliseconds,
       left(w.query, ${STATEMENT_CHARACTERS_MAX}) AS statement
  FROM pg_stat_activity w
 CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS p (pid)
  JOIN pg_stat_activity b ON b.pid = p.pid
  JOIN pg_locks l ON l.pid = w.pid AND NOT l.granted
 WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'
   AND w.application_name !~ '^understudy' AND b.application_name ~ '${OURS}'`;

/** Nobody of ours may be the reason for a deadlock either; the server counts those for the database. */
const DEADLOCKS_SQL =
  'SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()';

export async function watchProduction(source: Endpoint): Promise<ProductionWatch> {
  const client = new Client({ ...source, ssl: false, application_name: 'production watch' });
  client.on('error', () => undefined);
  await client.connect();
  const deadlocks = async (): Promise<number> =>
    (await client.query(DEADLOCKS_SQL)).rows[0].deadlocks;
  const before = await deadlocks();
  const waits = new Map<string, Wait>();
  const over = new AbortController();
  let samples = 0;
  const sample = async (): Promise<void> => {
    while (!over.signal.aborted) {
      const { rows } = await client.query<Wait>(WAITS_SQL);
      for (const one of rows) waits.set(one.key, one);
      samples += 1;
      await wait(SAMPLE_MS, undefined, { signal: over.signal }).catch(() => undefined);
    }
  };
  const failures: string[] = [];
  const sampling = sample().catch((error: unknown) => failures.push(String(error)));
  const stop = async (): Promise<void> => {
    over.abort();
    await sampling;
  };
  return {
    announced: () => [...waits.values()].filter(isAnnounced).map(describeWait),
    end: async () => {
      await stop();
      const wrong = [...waits.values()].filter((one) => !isAnnounced(one)).map(describeWait);
      // A watch that did not look has seen nothing wrong.
      wrong.push(...failures.map((failure) => `the watch ended early: ${failure}`));
      if (samples === 0) wrong.push('the watch never looked');
      const more = (await deadlocks()) - before;
      if (more > 0) wrong.push(`${more} deadlocks on the source`);
      return wrong;
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await client.end().catch(() => undefined);
    },
  };
}

function isAnnounced({ mode, onTable, milliseconds }: Wait): boolean {
  return ANNOUNCED.some(
    ({ waiting, millisecondsMax }) =>
      onTable && mode === waiting && milliseconds <= millisecondsMax,
  );
}

function describeWait({
  waiting,
  blocking,
  mode,
  relation,
  milliseconds,
  statement,
}: Wait): string {
  const seconds = (milliseconds / 1000).toFixed(1);
  return `${waiting} waited ${seconds} s for ${blocking} to get ${mode} on ${relation}: ${statement}`;
}
