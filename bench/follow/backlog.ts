import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createLogicalSlot } from '#src/db/postgres/replication/create-slot.ts';
import { dropSlot } from '#src/db/postgres/replication/slot.ts';
import { createPublication, type Publication } from '#src/shadow/publication.ts';

import { fingerprint } from '../harness/same-data.ts';
import {
  type BenchServer,
  createDatabase,
  inDatabase,
  type ServerPair,
} from '../harness/servers.ts';
import { MARKER, SCHEMA, type Workload, WRITERS } from './workloads.ts';

/** Changes that a slot of the source retains, and a template of the target as it was before them. */
export type Backlog = AsyncDisposable & {
  readonly source: Endpoint;
  readonly publication: Publication;
  /** A slot at the start of the backlog. Each run reads a copy of it. */
  readonly slot: { readonly name: string; readonly consistentLsn: Lsn };
  /** Name of the template database on the target's server. */
  readonly template: string;
  /** What a target must be at the end. */
  readonly expected: string;
};

const SLOT_DEADLINE_MS = 60_000;
const DROP_DEADLINE_MS = 30_000;

/** Write a backlog while nobody reads its slot. */
export async function recordBacklog(servers: ServerPair, workload: Workload): Promise<Backlog> {
  await using owned = new AsyncDisposableStack();
  const name = `bench_${workload.name}`;
  const { endpoint: template } = owned.use(await createDatabase(servers.target, name));
  const { endpoint: source } = owned.use(await createDatabase(servers.source, name));
  for (const endpoint of [template, source]) await setUp(endpoint, workload);
  const publication = await inDatabase(source, async (session) =>
    createPublication({ session, name, tables: await readTables(session, EVERYTHING) }),
  );
  // The connection ends with this block and the slot stays.
  const consistentLsn = await createSlot(source, name);
  owned.defer(async () => dropBenchSlot(servers.source, source, name));
  await Promise.all(
    Array.from({ length: WRITERS }, async (_, writer) => {
      await using session = await openSession(source, {
        applicationName: 'bench writer',
        settings: { synchronous_commit: 'off' },
      });
      await session.query(workload.write(writer));
    }),
  );
  await inDatabase(source, async (session) => session.query(`INSERT INTO ${MARKER} VALUES (1)`));
  const expected = await fingerprint(source, SCHEMA);
  const resources = owned.move();
  return {
    source,
    publication,
    slot: { name, consistentLsn },
    template: name,
    expected,
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}

async function setUp(endpoint: Endpoint, workload: Workload): Promise<void> {
  await inDatabase(endpoint, async (session) => {
    await session.query(workload.setUp);
    await session.query('VACUUM (FREEZE, ANALYZE)');
  });
}

async function createSlot(source: Endpoint, name: string): Promise<Lsn> {
  await using slot = await createLogicalSlot({
    endpoint: source,
    name,
    temporary: false,
    applicationName: 'understudy bench slot',
    deadlineMs: SLOT_DEADLINE_MS,
  });
  return slot.consistentLsn;
}

/** A slot of its own for one run, at the start of the backlog; removed at disposal. */
export async function copySlot(
  server: BenchServer,
  backlog: Backlog,
  name: string,
): Promise<AsyncDisposable & { readonly name: string }> {
  await inDatabase(backlog.source, async (session) =>
    session.query('SELECT pg_copy_logical_replication_slot($1, $2)', [backlog.slot.name, name]),
  );
  return {
    name,
    [Symbol.asyncDispose]: async () => dropBenchSlot(server, backlog.source, name),
  };
}

/** Whoever still reads it is ended: the benchmark is done with it. */
async function dropBenchSlot(server: BenchServer, source: Endpoint, name: string): Promise<void> {
  await server.admin.query(
    'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL',
    [name],
  );
  await inDatabase(source, async (session) => dropSlot(session, name, DROP_DEADLINE_MS));
}

/** Resolves when the last transaction of the backlog is visible on the target. */
export async function waitForMarker(target: Endpoint): Promise<void> {
  await inDatabase(target, async (session) => {
    const deadline = performance.now() + MARKER_MS_MAX;
    while ((await session.query(`SELECT id FROM ${MARKER}`)).length === 0) {
      if (performance.now() > deadline) throw new Error('the backlog was not applied in time');
      await session.query('SELECT pg_sleep(0.005)');
    }
  });
}

const MARKER_MS_MAX = 30 * 60_000;
