import { formatLsn, type Lsn, parseLsn } from '#src/core/lsn.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { COMMAND_LOCK_CLASS, requestLockKey } from '#src/shadow/fence.ts';
import type { ApplyGate } from '#src/shadow/follow/apply/apply-gate.ts';

/**
 * The follower's side of fence requests (docs/state.md): another command asks, by a row and a NOTIFY,
 * that the applier stand, that it go exactly to a position and stand again, and that it go on.
 *
 *     open ─► held ─► advance ─► reached ─► release ─► released        deadline passed ─► expired
 *
 * One request is served at a time, the oldest first. It is over when its deadline has passed or its
 * command, which holds a lock as long as it lives, has died: neither may hold the applier for ever.
 */
export type RequestsDeps = {
  readonly target: Session;
  readonly shadowId: string;
  readonly gate: ApplyGate;
  readonly clock: Clock;
  /** Make the source's stream say something after this moment, so that a fence is known to be reached. */
  readonly nudge: () => Promise<void>;
  /** What must be done for the target besides applying, before a fence counts as reached. */
  readonly onFence: () => Promise<void>;
  readonly failpoints: Failpoints;
};

/** At the latest, requests are looked at this often: a NOTIFY may be lost with a connection. */
const POLL_MS = 500;

type RequestRow = {
  readonly requestId: string;
  readonly kind: string;
  readonly state: string;
  readonly targetLsn: Lsn | undefined;
  readonly isOverdue: boolean;
};

/**
 * Void what an earlier run promised, before anything is applied: a fence that it reported as reached is
 * passed by the first change that this run applies.
 */
export async function voidRequests(target: Session, shadowId: string): Promise<void> {
  await target.execute(
    `UPDATE understudy.request
        SET state = CASE state WHEN 'release' THEN 'released' ELSE 'failed' END,
            message = CASE state WHEN 'release' THEN message ELSE 'the follower was started anew' END
      WHERE shadow_id = $1 AND kind = 'fence' AND state IN ('held', 'advance', 'reached', 'release')`,
    [shadowId],
  );
  await target.query('SELECT pg_catalog.pg_notify($1, $2)', [requestChannel(shadowId), 'failed']);
}

/**
 * Serve requests until aborted, or until one asks the follower to end. When this fails the gate stays as
 * it is: whoever was promised a fence must not see the applier pass it.
 */
export async function serveRequests(deps: RequestsDeps, signal: AbortSignal): Promise<void> {
  const { target, shadowId, gate, clock } = deps;
  let wake = new AbortController();
  await target.listen(requestChannel(shadowId), () => wake.abort());
  let served: string | undefined;
  let turn: Disposable | undefined;
  for (;;) {
    const request = await nextRequest(target, shadowId, served);
    if (request?.kind === 'stop') {
      await answer(deps, request, 'released');
      return;
    }
    if (request !== undefined) {
      turn ??= await gate.claim(signal);
      served = await serve(deps, request, signal);
    } else if (served !== undefined) {
      // It vanished: nobody will release it.
      gate.open();
      served = undefined;
    }
    if (served === undefined) {
      turn?.[Symbol.dispose]();
      turn = undefined;
    }
    if (!wake.signal.aborted) {
      const either = AbortSignal.any([signal, wake.signal]);
      await clock.sleep(POLL_MS, either).catch(() => undefined);
      signal.throwIfAborted();
    }
    wake = new AbortController();
  }
}

export function requestChannel(shadowId: string): string {
  return `understudy_${shadowId}`;
}

/** The request being served, or else the oldest that waits. */
async function nextRequest(
  target: Session,
  shadowId: string,
  served: string | undefined,
): Promise<RequestRow | undefined> {
  const [row] = await target.query(
    `SELECT request_id, kind, state, target_lsn,
            deadline < now() OR (kind = 'fence' AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_locks l
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                 AND l.classid = ${COMMAND_LOCK_CLASS}::int8::oid
                 AND l.objid = ${requestLockKey('request_id')}::int8::oid
                 AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                    WHERE datname = current_database()))) AS is_overdue
       FROM understudy.request
      WHERE shadow_id = $1 AND kind IN ('fence', 'stop')
        AND state NOT IN ('released', 'expired', 'failed')
      ORDER BY (request_id = $2::bigint) DESC NULLS LAST, request_id LIMIT 1`,
    [shadowId, served ?? null],
  );
  if (row === undefined) return undefined;
  return {
    requestId: row['request_id'] ?? '',
    kind: row['kind'] ?? '',
    state: row['state'] ?? '',
    targetLsn: parseLsn(row['target_lsn'] ?? ''),
    isOverdue: row['is_overdue'] === 't',
  };
}

/** One step of the conversation; the request that is still under way after it. */
async function serve(
  deps: RequestsDeps,
  request: RequestRow,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { gate } = deps;
  if (request.isOverdue && request.state !== 'release') {
    // The row before the gate. The command releases by the same row, so exactly one of both happens; a
    // repair under way holds its lock, and this waits for it.
    if (!(await answer(deps, request, 'expired'))) return request.requestId;
    gate.open();
    return undefined;
  }
  if (request.state === 'open') {
    const held = await standing(deps, request, gate.close({ kind: 'now' }), signal);
    if (held !== undefined) await answer(deps, request, 'held', held);
  } else if (request.state === 'advance' && request.targetLsn !== undefined) {
    const reached = gate.close({ kind: 'until', lsn: request.targetLsn });
    await deps.nudge();
    if ((await standing(deps, request, reached, signal)) !== undefined) {
      await deps.onFence();
      await answer(deps, request, 'reached');
    }
  } else if (request.state === 'release') {
    gate.open();
    await answer(deps, request, 'released');
    await forgetOld(deps);
    return undefined;
  }
  return request.requestId;
}

/** A shadow lives for months and may be verified every minute; nobody reads what is over. */
async function forgetOld({ target, shadowId }: RequestsDeps): Promise<void> {
  await target.execute(
    `DELETE FROM understudy.request
      WHERE shadow_id = $1 AND state IN ('released', 'expired', 'failed')
        AND created_at < now() - interval '1 day'`,
    [shadowId],
  );
}

/** Wait for the applier to stand, but not past the request's deadline. */
async function standing(
  deps: RequestsDeps,
  request: RequestRow,
  stands: Promise<Lsn>,
  signal: AbortSignal,
): Promise<Lsn | undefined> {
  stands.catch(() => undefined);
  const over = new AbortController();
  const either = AbortSignal.any([signal, over.signal]);
  const overdue = async (): Promise<undefined> => {
    for (;;) {
      await deps.clock.sleep(POLL_MS, either);
      const now = await nextRequest(deps.target, deps.shadowId, request.requestId);
      if (now?.requestId !== request.requestId || now.isOverdue) return undefined;
    }
  };
  try {
    return await Promise.race([stands, overdue()]);
  } finally {
    over.abort();
  }
}

/** Whether the request was still in the state that is answered: the command may have given up meanwhile. */
async function answer(
  deps: RequestsDeps,
  request: RequestRow,
  state: string,
  held?: Lsn,
): Promise<boolean> {
  const { target, shadowId, failpoints } = deps;
  failpoints.hit('request.beforeAnswer');
  const touched = await target.execute(
    `UPDATE understudy.request SET state = $2, held_lsn = coalesce($3::pg_lsn, held_lsn)
      WHERE request_id = $1 AND state = $4`,
    [request.requestId, state, held === undefined ? null : formatLsn(held), request.state],
  );
  failpoints.hit('request.afterAnswer');
  await target.query('SELECT pg_catalog.pg_notify($1, $2)', [requestChannel(shadowId), state]);
  return touched === 1;
}
