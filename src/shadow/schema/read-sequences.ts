import { quoteTable, type TableName } from '#src/core/table.ts';
import { USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { nameOf, textOf } from './rows.ts';

/**
 * Where sequences stand, read beside production: a look takes ROW EXCLUSIVE on a sequence, as nextval()
 * does, so it happens in statements that end at once and wait for nobody. What is locked (TRUNCATE …
 * RESTART IDENTITY, ALTER, DROP in an open transaction), hidden or gone comes back as `unread`.
 */

/** Where a sequence stands. With `isCalled` the next value is one step on, without it is `last`. */
export type Position = { readonly last: bigint; readonly isCalled: boolean };

type Obstacle = {
  /** In words. */
  readonly reason: string;
  /** Whether it goes by itself. */
  readonly isLocked: boolean;
};

export type UnreadSequence = TableName & Obstacle;

export type FoundSequence = TableName & {
  readonly oid: number;
  readonly isAscending: boolean;
  /** The quoted name of the table whose column owns it. */
  readonly owner: string | undefined;
  /** What can be known without touching it. */
  readonly obstacle: Obstacle | undefined;
};

const LOCKED: Obstacle = { reason: 'another transaction has locked it', isLocked: true };
const HIDDEN: Obstacle = { reason: 'the role may not read it', isLocked: false };

/** Each takes a lock, of which a server has few; and all of them go when the statement ends. */
const BATCH = 100;
/** Each is a subquery, of which the planner is slow with many. */
const UNCALLED_BATCH = 50;
const LOCK_MS_MAX = 100;
/** Failed statements of one look, each after up to `LOCK_MS_MAX`: what is left then is for the next one. */
const FAILURES_MAX = 20;

/**
 * From the catalog alone, which waits for nobody. A lock that conflicts with ROW EXCLUSIVE, or that is
 * waited for, would make us wait.
 */
const FIND_SQL = `
SELECT c.oid, n.nspname, c.relname, q.seqincrement > 0 AS is_ascending,
       t.nspname AS owner_schema, t.relname AS owner_name,
       coalesce(has_sequence_privilege(c.oid, 'SELECT'), false) AS may_select,
       c.oid IN (
         SELECT l.relation FROM pg_locks l JOIN pg_database b ON b.oid = l.database
          WHERE l.locktype = 'relation' AND b.datname = current_database()
            AND l.pid IS DISTINCT FROM pg_backend_pid()
            AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       ) AS is_locked
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence q ON q.seqrelid = c.oid
  LEFT JOIN LATERAL (
    SELECT o.relname, m.nspname
      FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid JOIN pg_namespace m ON m.oid = o.relnamespace
     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  ) t ON true
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND ${USER_RELATIONS}`;

export async function findSequences(session: Session): Promise<readonly FoundSequence[]> {
  const rows = await session.query(FIND_SQL);
  return rows.map((row) => ({
    ...nameOf(row),
    oid: Number(textOf(row, 'oid')),
    isAscending: row['is_ascending'] === 't',
    owner: ownerOf(row),
    obstacle: obstacleOf(row),
  }));
}

function ownerOf(row: Row): string | undefined {
  if (row['owner_name'] === null) return undefined;
  return quoteTable({ schema: textOf(row, 'owner_schema'), name: textOf(row, 'owner_name') });
}

function obstacleOf(row: Row): Obstacle | undefined {
  if (row['may_select'] !== 't') return HIDDEN;
  return row['is_locked'] === 't' ? LOCKED : undefined;
}

type Placed = FoundSequence & { readonly position: Position };

/** Those that can be read now, and the others. */
export async function readPositions(
  session: Session,
  sequences: readonly FoundSequence[],
): Promise<{ readonly found: readonly Placed[]; readonly unread: readonly UnreadSequence[] }> {
  const found: Placed[] = [];
  const uncalled: FoundSequence[] = [];
  const called = await askUnblocked(
    session,
    sequences.filter(({ obstacle }) => obstacle === undefined),
    {
      batch: BATCH,
      sql: (some) => `SELECT u.oid, pg_sequence_last_value(u.oid::regclass) AS last_value
        FROM unnest('{${some.map(({ oid }) => oid).join(',')}}'::oid[]) AS u (oid)`,
    },
  );
  for (const { asked, rows } of called.answers) {
    const values = new Map(rows.map((row) => [row['oid'], row['last_value'] ?? undefined]));
    for (const sequence of asked) {
      const last = values.get(String(sequence.oid));
      if (last === undefined) uncalled.push(sequence);
      else found.push({ ...sequence, position: { last: BigInt(last), isCalled: true } });
    }
  }
  // pg_sequence_last_value() does not tell where one stands that was never called: setval(…, false) can
  // put it anywhere.
  const others = await askUnblocked(session, uncalled, {
    batch: UNCALLED_BATCH,
    sql: (some) =>
      some
        .map((name, at) => `SELECT ${at} AS at, last_value, is_called FROM ${quoteTable(name)}`)
        .join(' UNION ALL '),
  });
  for (const { asked, rows } of others.answers) {
    for (const row of rows) {
      const sequence = asked[Number(row['at'])];
      assert(sequence !== undefined, 'the position of a sequence that was not asked for');
      // It may have been called since the first query.
      const last = BigInt(textOf(row, 'last_value'));
      found.push({ ...sequence, position: { last, isCalled: row['is_called'] === 't' } });
    }
  }
  return { found, unread: [...listBlocked(sequences), ...called.unread, ...others.unread] };
}

/** Those of which the catalog alone says that they cannot be read now. */
export function listBlocked(sequences: readonly FoundSequence[]): readonly UnreadSequence[] {
  return sequences.flatMap(({ schema, name, obstacle }) =>
    obstacle === undefined ? [] : [{ schema, name, ...obstacle }],
  );
}

type Question<T> = {
  /** In one statement. */
  readonly batch: number;
  readonly sql: (some: readonly T[]) => string;
};

type Answer<T> = { readonly asked: readonly T[]; readonly rows: readonly Row[] };

/**
 * Ask about sequences, so many in a statement that ends at once: what a lock keeps from an answer, or
 * anything else but a lost connection, is found by halves and given back.
 */
export async function askUnblocked<T extends TableName>(
  session: Session,
  sequences: readonly T[],
  { batch, sql }: Question<T>,
): Promise<{ readonly answers: readonly Answer<T>[]; readonly unread: readonly UnreadSequence[] }> {
  const answers: Answer<T>[] = [];
  const unread: UnreadSequence[] = [];
  const waiting: (readonly T[])[] = [];
  for (let at = 0; at < sequences.length; at += batch) {
    waiting.push(sequences.slice(at, at + batch));
  }
  let failures = 0;
  for (let asked = waiting.shift(); asked !== undefined; asked = waiting.shift()) {
    try {
      // One message, so one transaction of its own: its locks are gone before we have the answer.
      const rows = await session.query(`SET LOCAL lock_timeout = ${LOCK_MS_MAX}; ${sql(asked)}`);
      answers.push({ asked, rows });
    } catch (error) {
      const obstacle = obstacleBehind(error);
      failures += 1;
      if (asked.length === 1 || failures > FAILURES_MAX) {
        unread.push(...asked.map(({ schema, name }) => ({ schema, name, ...obstacle })));
        continue;
      }
      const middle = Math.ceil(asked.length / 2);
      waiting.unshift(asked.slice(0, middle), asked.slice(middle));
    }
  }
  return { answers, unread };
}

/** A sequence that is dropped meanwhile fails as undefined_table, or as internal_error by its oid. */
function obstacleBehind(error: unknown): Obstacle {
  const sqlstate = sqlstateOf(error);
  if (sqlstate === undefined) throw error;
  if (error instanceof OperatorError && error.code === 'CONNECTION_LOST') throw error;
  if (sqlstate === '55P03') return LOCKED;
  if (sqlstate === '42501') return HIDDEN;
  return { reason: `the server refuses it (SQLSTATE ${sqlstate})`, isLocked: false };
}
