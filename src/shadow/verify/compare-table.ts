import { type Difference, type DifferenceList } from '#src/core/difference.ts';
import { quoteTable, type Table } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { type ChunkOutcome, compareChunks } from './compare-chunks.ts';
import { changedColumns, compareRows, type RowDifference } from './compare-rows.ts';
import type { TableComparison } from './comparison.ts';
import type { Pair } from './pair.ts';
import { findStrayChunks } from './stray-chunks.ts';

/** Who rewrites a table for longer than this has most likely taken its rows from the moment, too. */
const LOCK_MS_MAX = 10_000;

export type TableOutcome = ChunkOutcome & {
  readonly differences: number;
  /** The chunks that were read on both sides; undefined for all. */
  readonly chunks: readonly bigint[] | undefined;
};

/**
 * Compare a table at the moment that the pair is in, chunks first, then the rows of those that differ.
 * Undefined when the table cannot be read as of the moment any more.
 */
export async function compareTable(
  pair: Pair,
  marked: TableComparison,
  options: { readonly found: DifferenceList; readonly shadowId: string | undefined },
): Promise<TableOutcome | undefined> {
  const { found, shadowId } = options;
  return withLock(pair, marked.table, async () => {
    const comparison = await withStrayChunks(pair, marked, shadowId);
    const { chunks } = comparison;
    const outcome =
      chunks?.length === 0
        ? { same: [], different: [], rows: 0n }
        : await compareChunks(pair, comparison);
    if (outcome.different.length === 0) return { ...outcome, chunks, differences: 0 };
    let differences = 0;
    for await (const row of compareRows(pair, { ...comparison, chunks: outcome.different })) {
      differences += 1;
      if (found.isFull) found.countMore(1);
      else found.add(await describe(pair, comparison, row));
    }
    if (differences === 0) {
      const { schema, name } = comparison.table;
      throw new OperatorError(
        'VERIFY_UNSUPPORTED',
        `${outcome.different.length} chunks of ${schema}.${name} differ, and none of their rows`,
      );
    }
    return { ...outcome, chunks, differences };
  });
}

async function withStrayChunks(
  pair: Pair,
  marked: TableComparison,
  shadowId: string | undefined,
): Promise<TableComparison> {
  if (marked.chunks === undefined || shadowId === undefined) return marked;
  const stray = await findStrayChunks(pair.target, shadowId, marked);
  const chunks = [...marked.chunks, ...stray].toSorted((a, b) => (a < b ? -1 : 1));
  return { ...marked, chunks };
}

/**
 * Lock the table for this comparison only, not for the whole moment: what wants to rewrite it queues
 * behind the lock, and everybody else behind that.
 *
 * A rewrite that came between the snapshot and the lock may have taken the snapshot's rows away (trap 2);
 * then there is nothing to compare, and the result is undefined. So it is when the lock cannot be had.
 */
export async function withLock<T>(
  pair: Pair,
  table: Table,
  work: () => Promise<T>,
): Promise<T | undefined> {
  const sessions = [pair.source, pair.target];
  await Promise.all(sessions.map(async (session) => session.query('SAVEPOINT compared')));
  const isThere = await Promise.all(sessions.map(async (session) => lock(session, table)));
  const result = isThere.every(Boolean) ? await work() : undefined;
  await Promise.all(
    sessions.map(async (session) =>
      session.query('ROLLBACK TO SAVEPOINT compared; RELEASE SAVEPOINT compared'),
    ),
  );
  return result;
}

async function lock(session: Session, table: Table): Promise<boolean> {
  try {
    await session.query(
      `SET LOCAL lock_timeout = ${LOCK_MS_MAX};
       LOCK TABLE ONLY ${quoteTable(table)} IN ACCESS SHARE MODE`,
    );
  } catch (error) {
    if (sqlstateOf(error) === '55P03') return false; // lock_not_available
    throw error;
  }
  const [row] = await session.query(
    `SELECT c.relfilenode = pg_relation_filenode(c.oid) AS is_there
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = $2`,
    [table.schema, table.name],
  );
  return row?.['is_there'] === 't';
}

async function describe(
  pair: Pair,
  comparison: TableComparison,
  row: RowDifference,
): Promise<Difference> {
  const place = row.kind === 'extra' ? row.target : row.source;
  const { table } = comparison;
  return {
    kind: row.kind,
    table: { schema: table.schema, name: table.name },
    key: Object.fromEntries(table.key.map((name, index) => [name, place.key[index] ?? null])),
    columns: row.kind === 'changed' ? await changedColumns(pair, comparison, row) : [],
  };
}
