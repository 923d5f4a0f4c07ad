import type { Report } from '#src/core/progress.ts';
import { quoteTable, type TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { isLeaseHeld } from './lease.ts';
import { type RelationRecord, readRelationRecords } from './ledger.ts';

/**
 * The command's side of `resume` and `reseed`: a request to the process that follows the shadow, and then
 * a look at the ledger until every table follows. The work goes on when the command ends.
 */
export type ReturnDeps = {
  /** For nothing else meanwhile. */
  readonly target: Session;
  readonly shadowId: string;
  readonly clock: Clock;
  readonly report: Report;
  readonly signal: AbortSignal;
};

/** How long the follower may take to answer. */
const ANSWER_MS = 60_000;
const POLL_MS = 250;

/**
 * Returns when all of the tables follow. Throws RETURN_REFUSED with the follower's reason, TABLE_STOPPED
 * when a table has stopped again, FOLLOWER_MISSING when nobody follows any more, and `signal.reason`.
 */
export async function returnTables(
  deps: ReturnDeps,
  kind: 'resume' | 'reseed',
  tables: readonly TableName[],
): Promise<void> {
  await ask(deps, kind, tables);
  const said = new Map<string, string>();
  for (;;) {
    const records = await readRelationRecords(deps.target, deps.shadowId);
    const mine = tables.flatMap((table) => findReturning(records, table) ?? []);
    for (const record of mine) say(deps, said, record);
    const stopped = mine.find(({ state }) => state === 'stopped');
    if (stopped !== undefined) {
      throw new OperatorError(
        'TABLE_STOPPED',
        `table ${quoteTable(stopped)} has stopped again: ${stopped.stop?.message ?? ''}`,
      );
    }
    if (mine.every(({ state }) => state === 'copied')) return;
    if (!(await isLeaseHeld(deps.target, deps.shadowId))) {
      throw new OperatorError(
        'FOLLOWER_MISSING',
        `the process that follows shadow ${deps.shadowId} has ended; the next one goes on with the tables`,
      );
    }
    await deps.clock.sleep(POLL_MS, deps.signal);
  }
}

async function ask(
  { target, shadowId, clock, signal }: ReturnDeps,
  kind: string,
  tables: readonly TableName[],
): Promise<void> {
  const [row] = await target.query(
    `INSERT INTO understudy.request (shadow_id, kind, state, tables, deadline)
     VALUES ($1, $2, 'open', $3::jsonb, clock_timestamp() + $4 * interval '1 ms') RETURNING request_id`,
    [
      shadowId,
      kind,
      JSON.stringify(tables.map(({ schema, name }) => ({ schema, name }))),
      ANSWER_MS,
    ],
  );
  const id = row?.['request_id'] ?? '';
  const deadlineMs = clock.now() + ANSWER_MS;
  for (;;) {
    const [answer] = await target.query(
      'SELECT state, message FROM understudy.request WHERE request_id = $1',
      [id],
    );
    if (answer?.['state'] === 'released') return;
    if (answer?.['state'] === 'failed') {
      throw new OperatorError('RETURN_REFUSED', answer['message'] ?? '');
    }
    if (answer?.['state'] !== 'open' || clock.now() > deadlineMs) {
      throw new OperatorError(
        'FOLLOWER_MISSING',
        `the process that follows shadow ${shadowId} did not answer within ${ANSWER_MS / 1000} s`,
      );
    }
    await clock.sleep(POLL_MS, signal);
  }
}

/** One that was made again on the source has two rows for a while; the new one is on its way. */
function findReturning(
  records: readonly RelationRecord[],
  table: TableName,
): RelationRecord | undefined {
  const named = records.filter(
    ({ schema, name }) => schema === table.schema && name === table.name,
  );
  return named.find(({ isInLane }) => isInLane) ?? named[0];
}

function say(deps: ReturnDeps, said: Map<string, string>, record: RelationRecord): void {
  const table = quoteTable(record);
  if (said.get(table) === record.state) return;
  said.set(table, record.state);
  deps.report({
    type: 'notice',
    level: 'info',
    message: `table ${table} is ${record.state === 'copied' ? 'in step' : record.state}`,
  });
}
