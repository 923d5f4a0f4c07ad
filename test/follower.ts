import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import { lsn, parseLsn } from '#src/core/lsn.ts';
import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { createLogicalSlot } from '#src/db/postgres/replication/create-slot.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { supervise } from '#src/lib/supervise.ts';
import { type Follower, openFollower } from '#src/shadow/follow/follow.ts';
import type { ShadowRecord } from '#src/shadow/ledger.ts';
import { createPublication } from '#src/shadow/publication.ts';

import { recordFollowedShadow } from './followed-shadow.ts';
import { recordError, recordingLogger, recordLine } from './output.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from './postgres.ts';

export type FollowedPair = AsyncDisposable & {
  readonly source: TestDatabase;
  readonly target: TestDatabase;
  readonly shadow: ShadowRecord;
  readonly follower: Follower;
  readonly events: readonly ProgressEvent[];
  /** Why following ended, when it did. */
  readonly ended: Promise<unknown>;
  /** End following; resolves when it has. */
  readonly stop: () => Promise<unknown>;
  /** Resolves when everything that the source has committed by now is applied; throws what ended following. */
  readonly caughtUp: () => Promise<void>;
  /** End following with everything that belongs to it, do `meanwhile`, and follow again as a new run does. */
  readonly again: (meanwhile?: () => Promise<void>) => Promise<FollowedPair>;
};

const CATCH_UP_MS = 60_000;

export type FollowOptions = {
  /** Of the spool. */
  readonly segmentBytes?: number;
  /** Of the spool, for stopped tables alone. */
  readonly stoppedSpoolBytesMax?: number;
  /** When the target's tables differ from the source's. */
  readonly targetDdl?: string;
  /** Everything, when undefined. */
  readonly selection?: Selection;
  /** Lag beyond which the shadow is late. */
  readonly maxLagMs?: number;
  /**
   * Whether the source streams transactions before they commit, from 64 kB on. A setting of the
   * walsender's: what a writer sets in its own session says nothing.
   */
  readonly isStreamed?: boolean;
  /** Before following begins; the endpoints to follow with, such as those of another role. */
  readonly prepare?: (
    source: TestDatabase,
    target: TestDatabase,
  ) => Promise<Partial<Record<'source' | 'target', Endpoint>>>;
};

/**
 * Two databases with the same empty tables, the target following the source: everything of a clone but
 * the copy. For tests of the follower alone.
 */
export async function followPair(
  versions: readonly [TestVersion, TestVersion],
  ddl: string,
  options: FollowOptions = {},
): Promise<FollowedPair> {
  await using owned = new AsyncDisposableStack();
  const { isStreamed = false, selection = EVERYTHING } = options;
  const source = owned.use(await createTestDatabase(versions[0], ddl));
  if (isStreamed) {
    await source.session.query(
      `ALTER DATABASE ${source.name} SET logical_decoding_work_mem = '64kB'`,
    );
  }
  const target = owned.use(await createTestDatabase(versions[1], options.targetDdl ?? ddl));
  const endpoints = {
    source: source.endpoint,
    target: target.endpoint,
    ...(await options.prepare?.(source, target)),
  };
  // Holds the lease.
  const control = owned.use(
    await openSession(endpoints.target, { applicationName: 'understudy test' }),
  );
  const spoolDirectory = await mkdtemp(join(tmpdir(), 'understudy-spool-'));
  owned.defer(async () => rm(spoolDirectory, { recursive: true, force: true }));
  const registered = await registerShadow({
    source,
    control,
    spoolDirectory,
    selection,
    maxLagMs: options.maxLagMs,
  });
  const { epoch } = registered;
  const { stoppedSpoolBytesMax = registered.shadow.stoppedSpoolBytesMax } = options;
  const shadow = { ...registered.shadow, stoppedSpoolBytesMax };

  const follow = async (): Promise<FollowedPair> => {
    const { segmentBytes } = options;
    const following = await startFollowing({
      ...endpoints,
      shadow,
      epoch,
      spoolDirectory,
      jobs: 2,
      ...(segmentBytes === undefined ? {} : { segmentBytes }),
    });
    const dispose = async (): Promise<void> => {
      await following.stop();
      await following.follower[Symbol.asyncDispose]();
    };
    return {
      source,
      target,
      shadow,
      ...following,
      caughtUp: async () => catchUp(source, following.follower, following),
      again: async (meanwhile) => {
        await dispose();
        await meanwhile?.();
        return follow();
      },
      [Symbol.asyncDispose]: dispose,
    };
  };
  owned.defer(async () => {
    const { originName } = shadow;
    if (originName === undefined) return;
    await dropOrigin(target.session, originName);
  });
  const pair = owned.use(await follow());
  const resources = owned.move();
  return { ...pair, [Symbol.asyncDispose]: async () => resources.disposeAsync() };
}

async function startFollowing(
  options: Omit<
    Parameters<typeof openFollower>[0],
    'clock' | 'log' | 'report' | 'failpoints' | 'onFence'
  >,
): Promise<Pick<FollowedPair, 'follower' | 'events' | 'ended' | 'stop'>> {
  const events: ProgressEvent[] = [];
  const follower = await openFollower({
    ...options,
    clock: systemClock,
    log: recordingLogger(),
    report: (event) => {
      recordLine('events', event);
      events.push(event);
    },
    failpoints: createFailpoints(undefined),
    onFence: async () => undefined,
  });
  const aborting = new AbortController();
  const ended = supervise(
    [follower.spooling, follower.applying, follower.serving, follower.returning],
    aborting.signal,
  ).catch((error: unknown) => {
    recordError(error);
    return error;
  });
  const stop = async (): Promise<unknown> => {
    aborting.abort();
    return ended;
  };
  return { follower, events, ended, stop };
}

/** A backend whose connection was cut holds it until it notices. */
async function dropOrigin(target: Session, name: string): Promise<void> {
  const deadline = Date.now() + CATCH_UP_MS;
  for (;;) {
    try {
      // A test may have dropped it.
      await target.query(
        'SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = $1',
        [name],
      );
      return;
    } catch (error) {
      if (sqlstateOf(error) !== '55006' || Date.now() > deadline) throw error;
      await wait(100);
    }
  }
}

async function registerShadow(parts: {
  readonly source: TestDatabase;
  readonly control: Session;
  readonly spoolDirectory: string;
  readonly selection: Selection;
  readonly maxLagMs: number | undefined;
}): Promise<{ shadow: ShadowRecord; epoch: bigint }> {
  const { source, control, spoolDirectory, selection, maxLagMs } = parts;
  const shadowId = source.name.slice(-8);
  const tables = await readTables(source.session, selection);
  const name = `understudy_${shadowId}`;
  const publication = await createPublication({ session: source.session, name, tables });
  await using slot = await createLogicalSlot({
    endpoint: source.endpoint,
    name,
    temporary: false,
    applicationName: name,
    deadlineMs: 30_000,
  });
  return await recordFollowedShadow({
    source: source.session,
    target: control,
    shadowId,
    tables,
    publication,
    slot: { name, consistentLsn: slot.consistentLsn },
    spoolDirectory,
    maxLagMs,
    selection,
  });
}

async function catchUp(
  source: TestDatabase,
  follower: Follower,
  { ended, events }: Pick<FollowedPair, 'ended' | 'events'>,
): Promise<void> {
  const [row] = await source.session.query('SELECT pg_current_wal_insert_lsn() AS lsn');
  using _ = await follower.gate.claim(AbortSignal.timeout(CATCH_UP_MS));
  const stands = follower.gate.close({
    kind: 'until',
    lsn: parseLsn(row?.['lsn'] ?? '') ?? lsn(0n),
  });
  await source.session.query(`SELECT pg_logical_emit_message(true, 'test', '')`);
  const failed = ended.then((error) => {
    throw error instanceof Error ? error : new Error('following ended');
  });
  try {
    await Promise.race([stands.catch(async () => failed), failed, timeout(CATCH_UP_MS, events)]);
  } finally {
    follower.gate.open();
  }
}

async function timeout(ms: number, events: readonly ProgressEvent[]): Promise<never> {
  await wait(ms, undefined, { ref: false });
  const seen = [
    ...events.filter((event) => event.type === 'notice'),
    events.findLast((event) => event.type === 'lag'),
  ];
  throw new Error(`the follower did not catch up: ${JSON.stringify(seen)}`);
}

/** How many transactions the source has sent before they committed. */
export async function streamedTransactions(pair: FollowedPair): Promise<number> {
  return streamStatistic(pair, 'stream_txns');
}

/** How much of such transactions it has decoded by now. */
export async function streamedBytes(pair: FollowedPair): Promise<number> {
  return streamStatistic(pair, 'stream_bytes');
}

async function streamStatistic(
  pair: FollowedPair,
  name: 'stream_txns' | 'stream_bytes',
): Promise<number> {
  // By another session: one in a transaction always sees the same statistics.
  await using session = await openSession(pair.source.endpoint, {
    applicationName: 'understudy test',
  });
  const [row] = await session.query(
    `SELECT ${name} FROM pg_stat_replication_slots WHERE slot_name = $1`,
    [pair.shadow.slotName ?? ''],
  );
  return Number(row?.[name] ?? 0);
}

/** Backends of ours that were ended, by their application_name without the shadow's id. */
export async function endBackends(
  { shadow, source, target }: FollowedPair,
  part: 'receive' | 'apply',
): Promise<number> {
  const { session } = part === 'receive' ? source : target;
  const rows = await session.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`,
    [`understudy ${shadow.shadowId} ${part}`],
  );
  return rows.length;
}

/** The tables that differ once everything is applied. */
export async function differences(
  pair: FollowedPair,
  ...tables: readonly string[]
): Promise<readonly string[]> {
  await pair.caughtUp();
  const differing: string[] = [];
  for (const table of tables) {
    const [source, target] = await Promise.all(
      [pair.source, pair.target].map(async ({ session }) => digestOf(session, table)),
    );
    if (source !== target) differing.push(table);
  }
  return differing;
}

/** Number and hash of all rows by their text. */
async function digestOf(session: Session, table: string): Promise<string> {
  const rows = await session.query(
    `SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM ${table} t`,
  );
  return JSON.stringify(rows);
}
