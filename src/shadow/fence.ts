import { randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { createLogicalSlot, type LogicalSlot } from '#src/db/postgres/replication/create-slot.ts';
import { describeBlocker } from '#src/db/postgres/replication/slot-blocker.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

/**
 * A fence: a moment at which the target is exactly the source, while both go on. The command's side of
 * the conversation in understudy.request (docs/state.md):
 *
 *   command   open ───────── slot, snapshot ── advance ─────────── read both ── release
 *   follower       ── held ──────────────────────────── reached ───────────────────────
 *
 * The follower is held *before* the slot is made, else it could pass the slot's position (trap 25). The
 * slot's snapshot holds exactly the transactions whose commit record begins before its position, and the
 * follower applies exactly those.
 */
export type FenceOptions = {
  readonly source: Endpoint;
  /** Holds the conversation; for nothing else meanwhile. */
  readonly session: Session;
  readonly shadowId: string;
  /** For all of it. When it has passed, the follower goes on by itself. */
  readonly timeoutMs: number;
  readonly onBlocked?: (blocker: string) => void;
  readonly failpoints: Failpoints;
};

export type Fence = AsyncDisposable & {
  readonly lsn: Lsn;
  /** The source at `lsn`, for SET TRANSACTION SNAPSHOT until `dropSlot`. */
  readonly sourceSnapshot: string;
  /** The source need not keep WAL for us, once the snapshot is imported. */
  readonly dropSlot: () => Promise<void>;
  /** Returns when the target is the source as of `lsn`. */
  readonly reach: () => Promise<void>;
  /**
   * Let the follower go on. What was read on the target since `reach` counts only when this returns: it
   * throws FENCE_TIMEOUT if the follower had gone on already.
   */
  readonly release: () => Promise<void>;
  /**
   * SQL that releases as part of a transaction on the target, which must roll back unless it touches
   * one row. The row's lock keeps the follower from going on until that transaction has ended.
   */
  readonly releaseSql: string;
  /** To be called when `releaseSql` has committed. */
  readonly released: () => Promise<void>;
};

const POLL_MS = 200;

/** While a command lives its session holds the lock (class, request id): "undc". */
export const COMMAND_LOCK_CLASS = 0x75_6e_64_63;

/** The second key of that lock, from an SQL expression for the request's id. */
export function requestLockKey(id: string): string {
  return `(${id}::int8 % 2147483647)::int4`;
}

/** Throws FENCE_TIMEOUT, and what createLogicalSlot throws (SLOT_BLOCKED names who is in the way). */
export async function openFence(options: FenceOptions): Promise<Fence> {
  const conversation = await Conversation.begin(options);
  options.failpoints.hit('fence.afterOpen');
  let slot: LogicalSlot | undefined;
  try {
    await conversation.waitFor('held');
    options.failpoints.hit('fence.afterHeld');
    slot = await createLogicalSlot({
      endpoint: options.source,
      name: `understudy_${options.shadowId}_${randomBytes(4).toString('hex')}`,
      temporary: true,
      applicationName: `understudy ${options.shadowId} fence`,
      deadlineMs: conversation.remainingMs(),
      onBlocked: (blocker) => options.onBlocked?.(describeBlocker(blocker)),
    });
  } catch (error) {
    await conversation.giveUp();
    throw error;
  }
  options.failpoints.hit('fence.afterSlot');
  return fenceAt(conversation, slot);
}

function fenceAt(conversation: Conversation, slot: LogicalSlot): Fence {
  const lsn = slot.consistentLsn;
  let isOver = false;
  return {
    lsn,
    sourceSnapshot: slot.snapshotName,
    dropSlot: async () => slot[Symbol.asyncDispose](),
    reach: async () => {
      await conversation.set('held', 'advance', lsn);
      conversation.failpoints.hit('fence.afterAdvance');
      await conversation.waitFor('reached');
      conversation.failpoints.hit('fence.afterReached');
    },
    release: async () => {
      conversation.failpoints.hit('fence.beforeRelease');
      await conversation.set('reached', 'release');
      conversation.failpoints.hit('fence.afterRelease');
      isOver = true;
    },
    releaseSql: conversation.releaseSql,
    released: async () => {
      isOver = true;
      await conversation.notify();
    },
    async [Symbol.asyncDispose]() {
      await slot[Symbol.asyncDispose]();
      if (!isOver) await conversation.giveUp();
    },
  };
}

type State = 'held' | 'advance' | 'reached' | 'release';

class Conversation {
  readonly #options: FenceOptions;
  readonly #requestId: string;
  readonly #deadline: number;
  #wake: () => void = () => undefined;

  private constructor(options: FenceOptions, requestId: string) {
    this.#options = options;
    this.#requestId = requestId;
    this.#deadline = performance.now() + options.timeoutMs;
  }

  static async begin(options: FenceOptions): Promise<Conversation> {
    const { session, shadowId } = options;
    assert(/^[0-9a-f]{8}$/.test(shadowId), 'a shadow id is eight hex digits');
    await refuseUnready(session, shadowId);
    const requestId = await session.transaction(async () => {
      const [row] = await session.query(
        `INSERT INTO understudy.request (shadow_id, kind, state, deadline)
         VALUES ($1, 'fence', 'open', clock_timestamp() + $2 * interval '1 ms') RETURNING request_id`,
        [shadowId, options.timeoutMs],
      );
      const id = row?.['request_id'] ?? '';
      // Before the row can be seen: it says that we live, and the follower looks for it.
      await session.query(
        `SELECT pg_advisory_lock(${COMMAND_LOCK_CLASS}, ${requestLockKey('$1')})`,
        [id],
      );
      return id;
    });
    const conversation = new Conversation(options, requestId);
    await session.listen(channelOf(shadowId), () => conversation.#wake());
    await conversation.notify();
    return conversation;
  }

  get failpoints(): Failpoints {
    return this.#options.failpoints;
  }

  get releaseSql(): string {
    return `UPDATE understudy.request SET state = 'release'
             WHERE request_id = ${this.#requestId} AND state = 'reached'`;
  }

  remainingMs(): number {
    return Math.max(1, Math.round(this.#deadline - performance.now()));
  }

  async set(from: State, to: State, lsn?: Lsn): Promise<void> {
    const { session } = this.#options;
    const touched = await session.execute(
      `UPDATE understudy.request SET state = $3, target_lsn = coalesce($4::pg_lsn, target_lsn)
        WHERE request_id = $1 AND state = $2`,
      [this.#requestId, from, to, lsn === undefined ? null : formatLsn(lsn)],
    );
    if (touched !== 1) throw await this.#failure(from);
    await this.notify();
  }

  async waitFor(state: State): Promise<void> {
    while (this.remainingMs() > 1) {
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const row = await this.#read();
      if (row?.['state'] === state) return;
      if (row === undefined || OVER.has(row['state'] ?? '')) break;
      // A lost notification costs this long, no more.
      await Promise.race([woken, wait(POLL_MS)]);
    }
    throw await this.#failure(state);
  }

  async notify(): Promise<void> {
    await this.#options.session.query(`NOTIFY ${channelOf(this.#options.shadowId)}`);
  }

  /** Let the follower go on, wherever the conversation stands. */
  async giveUp(): Promise<void> {
    try {
      await this.#options.session.execute(
        `UPDATE understudy.request SET state = 'release'
          WHERE request_id = $1 AND state IN ('open', 'held', 'advance', 'reached')`,
        [this.#requestId],
      );
      await this.notify();
    } catch {
      // The session is gone; the follower goes on by itself at the deadline.
    }
  }

  async #read(): Promise<Row | undefined> {
    const [row] = await this.#options.session.query(
      'SELECT state, message, held_lsn, target_lsn FROM understudy.request WHERE request_id = $1',
      [this.#requestId],
    );
    return row;
  }

  async #failure(awaited: State): Promise<OperatorError> {
    const row = await this.#read();
    const seconds = Math.round(this.#options.timeoutMs / 1000);
    const said = row?.['message'] ?? `its state is ${row?.['state'] ?? 'gone'}`;
    const [shadow] = await this.#options.session.query(
      'SELECT phase FROM understudy.shadow WHERE shadow_id = $1',
      [this.#options.shadowId],
    );
    return new OperatorError(
      'FENCE_TIMEOUT',
      `the follower of shadow ${this.#options.shadowId} (${shadow?.['phase'] ?? 'unknown phase'}) ` +
        `was not ${awaited} at the fence within ${seconds} s: ${said}`,
      { detail: { heldLsn: row?.['held_lsn'] ?? '', targetLsn: row?.['target_lsn'] ?? '' } },
    );
  }
}

const UNREADY = new Set(['preparing', 'copying', 'indexing', 'complete', 'stopped']);

/** Nobody answers before the target is in order, so there is no use in waiting. */
async function refuseUnready(session: Session, shadowId: string): Promise<void> {
  const [shadow] = await session.query('SELECT phase FROM understudy.shadow WHERE shadow_id = $1', [
    shadowId,
  ]);
  const phase = shadow?.['phase'] ?? '';
  if (!UNREADY.has(phase)) return;
  throw new OperatorError(
    'FENCE_TIMEOUT',
    `shadow ${shadowId} is ${phase}: nothing is followed yet`,
  );
}

const OVER = new Set(['expired', 'failed', 'released']);

function channelOf(shadowId: string): string {
  return `understudy_${shadowId}`;
}
