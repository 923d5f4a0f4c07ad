import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import { quoteIdentifier } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { describeBlocker, readSlotBlockers, type SlotBlocker } from './slot-blocker.ts';
import { dropSlot, readLsn } from './slot.ts';

const POLL_MS = 250;
/** A server that does not act on so many cancels, so far apart, loses the connection. */
const CANCELS_MAX = 10;
const CANCEL_MS = 500;
const DROP_MS_MAX = 10_000;

export type LogicalSlot = AsyncDisposable & {
  readonly name: string;
  /** The snapshot holds what committed before it; the stream gives what commits from it on. */
  readonly consistentLsn: Lsn;
  /** For SET TRANSACTION SNAPSHOT, until this object is disposed or its connection is used. */
  readonly snapshotName: string;
  readonly connection: WireConnection;
};

export type CreateSlotOptions = {
  readonly endpoint: Endpoint;
  /** Lower-case letters, digits and underscores. */
  readonly name: string;
  /** Goes with the connection. */
  readonly temporary: boolean;
  readonly applicationName: string;
  /** For everything, the waiting included. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  /** Called a few times a second with the oldest transaction that is waited for. */
  readonly onBlocked?: (blocker: SlotBlocker) => void;
};

/**
 * Create a logical slot for pgoutput and export the snapshot of its consistent point: a copy under the
 * snapshot plus the stream is every row once. Dropping a persistent slot is the caller's business.
 *
 * A slot waits for every write transaction that is older than itself, in any database (trap 3). They are
 * waited for first, while nothing retains WAL yet; then again in CREATE itself, which is cancelled at
 * the deadline. No slot is left behind by a failure.
 *
 * Throws SLOT_BLOCKED, NO_FREE_SLOT, WAL_LEVEL_TOO_LOW, PRIVILEGE_MISSING, what connecting throws, or
 * `signal.reason`.
 */
export async function createLogicalSlot(options: CreateSlotOptions): Promise<LogicalSlot> {
  const { endpoint, applicationName } = options;
  assert(/^[a-z0-9_]{1,63}$/.test(options.name), `slot name ${options.name}`);
  options.signal?.throwIfAborted();
  const deadline = AbortSignal.timeout(options.deadlineMs);
  await using session = await openSession(endpoint, { applicationName });
  await checkWalLevel(session);
  const watch = new BlockerWatch(session, options);
  await watch.waitForOlder(deadline);
  const connection = await openReplicationConnection(options);
  try {
    const created = await createOrCancel({ options, connection, watch, deadline });
    return {
      ...created,
      name: options.name,
      connection,
      [Symbol.asyncDispose]: async () => connection[Symbol.asyncDispose](),
    };
  } catch (error) {
    await connection[Symbol.asyncDispose]();
    throw error;
  }
}

async function checkWalLevel(session: Session): Promise<void> {
  const [row] = await session.query('SHOW wal_level');
  if (row?.['wal_level'] === 'logical') return;
  throw new OperatorError(
    'WAL_LEVEL_TOO_LOW',
    `the source runs with wal_level=${row?.['wal_level']}`,
  );
}

/** Throws NO_FREE_SLOT when the server has no walsender left. */
export async function openReplicationConnection(options: {
  readonly endpoint: Endpoint;
  readonly applicationName: string;
}): Promise<WireConnection> {
  const { endpoint, applicationName } = options;
  try {
    return await openWireConnection(endpoint, { applicationName, replication: true });
  } catch (error) {
    if (sqlstateOf(error) !== '53300') throw error; // too_many_connections
    throw new OperatorError('NO_FREE_SLOT', messageOf(error), { detail: { sqlstate: '53300' } });
  }
}

/** CREATE_REPLICATION_SLOT, cancelled at the deadline or by the signal. */
async function createOrCancel(parts: {
  options: CreateSlotOptions;
  connection: WireConnection;
  watch: BlockerWatch;
  deadline: AbortSignal;
}): Promise<{ consistentLsn: Lsn; snapshotName: string }> {
  const { options, connection, watch, deadline } = parts;
  const over = new AbortController();
  const watching = watch.reportUntil(over.signal);
  const stopped = AbortSignal.any([deadline, ...(options.signal ? [options.signal] : [])]);
  const cancel = (): void => {
    void cancelOrDestroy(connection, over.signal);
  };
  stopped.addEventListener('abort', cancel);
  if (stopped.aborted) cancel();
  try {
    const [created] = await connection.query(createStatement(options, connection.serverMajor));
    const [, consistentPoint, snapshotName] = created?.rows[0] ?? [];
    return {
      consistentLsn: readLsn(consistentPoint, 'CREATE_REPLICATION_SLOT'),
      snapshotName: snapshotName ?? '',
    };
  } catch (error) {
    if (!stopped.aborted) throw slotError(error);
    // A server that did not answer the cancel may have finished the slot behind our back.
    await connection[Symbol.asyncDispose]();
    if (sqlstateOf(error) === undefined) await watch.dropSlot();
    options.signal?.throwIfAborted();
    throw watch.blockedError();
  } finally {
    stopped.removeEventListener('abort', cancel);
    over.abort();
    await watching;
  }
}

/** https://www.postgresql.org/docs/current/protocol-replication.html; 14 has no list of options. */
function createStatement(options: CreateSlotOptions, serverMajor: number): string {
  const kind = `${options.temporary ? 'TEMPORARY ' : ''}LOGICAL pgoutput`;
  const list = [`SNAPSHOT 'export'`, ...(isFailoverSlot(options, serverMajor) ? ['FAILOVER'] : [])];
  const rest = serverMajor >= 15 ? `(${list.join(', ')})` : 'EXPORT_SNAPSHOT';
  return `CREATE_REPLICATION_SLOT ${quoteIdentifier(options.name)} ${kind} ${rest}`;
}

/**
 * Standbys with sync_replication_slots have the slot, too, so that it outlives a failover. It costs
 * nothing where there is none. https://www.postgresql.org/docs/current/logical-replication-failover.html
 */
function isFailoverSlot({ temporary }: CreateSlotOptions, serverMajor: number): boolean {
  return !temporary && serverMajor >= 17;
}

/** A cancel that comes before the statement has begun is without effect, so it is repeated. */
async function cancelOrDestroy(connection: WireConnection, over: AbortSignal): Promise<void> {
  for (let attempt = 0; attempt < CANCELS_MAX; attempt += 1) {
    await connection.cancel().catch(() => undefined);
    const isOver = await wait(CANCEL_MS, false, { signal: over }).catch(() => true);
    if (isOver) return;
  }
  connection.destroy();
}

function slotError(error: unknown): unknown {
  if (sqlstateOf(error) !== '53400') return error; // configuration_limit_exceeded
  return new OperatorError('NO_FREE_SLOT', messageOf(error), { detail: { sqlstate: '53400' } });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Looks, by a session of its own, for what a slot has to wait for. */
class BlockerWatch {
  readonly #session: Session;
  readonly #options: CreateSlotOptions;
  #oldest: SlotBlocker | undefined;

  constructor(session: Session, options: CreateSlotOptions) {
    this.#session = session;
    this.#options = options;
  }

  /** Until every transaction that writes now has ended; later ones do not matter. */
  async waitForOlder(deadline: AbortSignal): Promise<void> {
    const { signal } = this.#options;
    const waitedFor = new Set((await readSlotBlockers(this.#session)).map((one) => one.id));
    for (;;) {
      const left = (await readSlotBlockers(this.#session)).filter((one) => waitedFor.has(one.id));
      this.#report(left[0]);
      if (left.length === 0) return;
      if (deadline.aborted) throw this.blockedError();
      await wait(POLL_MS, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
      signal?.throwIfAborted();
    }
  }

  async reportUntil(over: AbortSignal): Promise<void> {
    for (;;) {
      const isOver = await wait(POLL_MS, false, { signal: over }).catch(() => true);
      if (isOver) return;
      // Losing this session must not fail the creation: it only tells who is in the way.
      const [oldest] = await readSlotBlockers(this.#session).catch(() => []);
      this.#report(oldest);
    }
  }

  blockedError(): OperatorError {
    const who = this.#oldest === undefined ? 'the server' : describeBlocker(this.#oldest);
    const seconds = this.#options.deadlineMs / 1000;
    return new OperatorError(
      'SLOT_BLOCKED',
      `slot ${this.#options.name} was not ready within ${seconds} s: it waits for ${who}`,
    );
  }

  async dropSlot(): Promise<void> {
    await dropSlot(this.#session, this.#options.name, DROP_MS_MAX);
  }

  #report(blocker: SlotBlocker | undefined): void {
    this.#oldest = blocker ?? this.#oldest;
    if (blocker !== undefined) this.#options.onBlocked?.(blocker);
  }
}
