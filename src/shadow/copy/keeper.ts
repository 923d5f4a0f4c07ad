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
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';

import { SNAPSHOT_GONE_SQLSTATES } from './snapshot-gone.ts';

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

type Kept = {
  readonly connection: WireConnection;
  readonly exported: string;
  readonly snapshot: string;
};

/** From 17 on a role can have a transaction_timeout, which would end the snapshot. */
const TRANSACTION_TIMEOUT_MAJOR = 17;

/** A transaction on the snapshot, or undefined when the id names it no more. */
async function keep(order: KeeperOrder, exported: string): Promise<Kept | undefined> {
  // WireConnection, since the other library would double the memory of this process.
  const connection = await openWireConnection(order.endpoint, {
    applicationName: order.applicationName,
  });
  try {
    if (connection.serverMajor >= TRANSACTION_TIMEOUT_MAJOR) {
      await connection.query('SET transaction_timeout = 0');
    }
    const results = await connection.query(
      `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
       SET TRANSACTION SNAPSHOT ${quoteLiteral(exported)};
       SELECT pg_export_snapshot(), pg_current_snapshot()::text`,
    );
    const [exportedAgain, snapshot] = results.at(-1)?.rows[0] ?? [];
    // After a restart of the server the same id can name another one's snapshot.
    const isThat = order.snapshot === undefined || order.snapshot === snapshot;
    if (isThat && exportedAgain && snapshot) {
      return { connection, snapshot, exported: exportedAgain };
    }
    connection.destroy();
    return undefined;
  } catch (error) {
    connection.destroy();
    if (SNAPSHOT_GONE_SQLSTATES.has(sqlstateOf(error) ?? '')) return undefined;
    throw error;
  }
}

/** Resolves when the connection has ended; nothing else ever comes. */
async function ended(connection: WireConnection): Promise<void> {
  try {
    while ((await connection.read()) !== undefined);
  } catch {
    // A reset is an end, too.
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
    backendPids: kept.map((one) => one.connection.processId),
    snapshot: first.snapshot,
  });
  // Any one of them is enough to go on; with none there is nothing to hold.
  await Promise.all(kept.map(async (one) => ended(one.connection)));
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
