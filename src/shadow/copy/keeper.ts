/**
 * The keeper: a small process of its own that holds an exported snapshot open, so that a copy whose main
 * process was killed goes on from the same snapshot (trap 1). Started by hold-snapshot.ts.
 *
 * Its transactions import a snapshot and export it again; an exported id stays good as long as the
 * transaction behind it lives. Then they only sit there.
 *
 *   stdin   one line: the order (it holds the password, so neither argv nor env may carry it)
 *           later `end`: over, at once. End of input: the parent died or let go; stay for the grace.
 *   stdout  one line: the answer
 */
import { createInterface } from 'node:readline';

import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteLiteral } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/session.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';

export type KeeperOrder = {
  readonly endpoint: Endpoint;
  readonly applicationName: string;
  /** Ids to import, tried in order; any one will do, they name the same snapshot. */
  readonly exported: readonly string[];
  /** What pg_current_snapshot() must say after the import, when it is known from before. */
  readonly snapshot: string | undefined;
  readonly transactions: number;
  readonly graceMs: number;
};

export type KeeperAnswer =
  | {
      readonly kind: 'holding';
      readonly exported: readonly string[];
      readonly backendPids: readonly number[];
      readonly snapshot: string;
    }
  /** None of the ids names the snapshot any more. */
  | { readonly kind: 'gone' }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

/** 14 to 16: invalid_parameter_value; from 17: undefined_object; its owner has just ended: 55000. */
const SNAPSHOT_GONE_SQLSTATES = new Set(['22023', '42704', '55000']);

type Kept = { readonly session: Session; readonly exported: string; readonly snapshot: string };

/** A transaction on the snapshot, or undefined when the id names it no more. */
async function keep(order: KeeperOrder, exported: string): Promise<Kept | undefined> {
  const session = await openSession(order.endpoint, { applicationName: order.applicationName });
  try {
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await session.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(exported)}`);
    const [row] = await session.query(
      'SELECT pg_export_snapshot() AS exported, pg_current_snapshot()::text AS snapshot',
    );
    const snapshot = row?.['snapshot'] ?? '';
    // After a restart of the server the same id can name another one's snapshot.
    if (order.snapshot !== undefined && order.snapshot !== snapshot) {
      await session[Symbol.asyncDispose]();
      return undefined;
    }
    return { session, snapshot, exported: row?.['exported'] ?? '' };
  } catch (error) {
    await session[Symbol.asyncDispose]();
    if (SNAPSHOT_GONE_SQLSTATES.has(sqlstateOf(error) ?? '')) return undefined;
    throw error;
  }
}

async function keepAll(order: KeeperOrder): Promise<readonly Kept[]> {
  const kept: Kept[] = [];
  for (const exported of order.exported) {
    const first = await keep(order, exported);
    if (first === undefined) continue;
    kept.push(first);
    break;
  }
  const [first] = kept;
  if (first === undefined) return [];
  while (kept.length < order.transactions) {
    const next = await keep({ ...order, snapshot: first.snapshot }, first.exported);
    if (next === undefined) break;
    kept.push(next);
  }
  return kept;
}

function answer(line: KeeperAnswer): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function obey(order: KeeperOrder): Promise<void> {
  let kept: readonly Kept[];
  try {
    kept = await keepAll(order);
  } catch (error) {
    const code = error instanceof OperatorError ? error.code : 'CONNECTION_FAILED';
    const message = error instanceof OperatorError ? error.message : 'the keeper failed';
    answer({ kind: 'failed', code, message });
    process.exit(1);
  }
  const [first] = kept;
  if (first === undefined) {
    answer({ kind: 'gone' });
    process.exit(0);
  }
  answer({
    kind: 'holding',
    exported: kept.map((one) => one.exported),
    backendPids: kept.map((one) => one.session.processId),
    snapshot: first.snapshot,
  });
  // Any one of them is enough to go on; with none there is nothing to hold.
  await Promise.all(kept.map((one) => one.session.lost));
  process.exit(0);
}

let graceMs = 0;
let isOrdered = false;
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  if (line === 'end') process.exit(0);
  if (isOrdered) return;
  isOrdered = true;
  const order: KeeperOrder = JSON.parse(line);
  graceMs = order.graceMs;
  void obey(order);
});
lines.on('close', () => {
  setTimeout(() => process.exit(0), graceMs);
});
// The parent's end of the pipe may be gone when the answer is written; the grace is running then.
process.stdout.on('error', () => undefined);
