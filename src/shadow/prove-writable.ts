import { copiedColumns, quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/** A table on which production's statement would fail while it is published (trap 7). */
export type RefusedWrite = {
  readonly table: Table;
  readonly kind: 'UPDATE' | 'DELETE';
  readonly sqlstate: string;
};

/**
 * Which of these published tables would refuse UPDATE or DELETE. Call it inside the transaction that made
 * the publication: nobody else sees it yet, and its locks keep the keys as they are until the commit.
 *
 * The server itself answers. EXPLAIN starts the executor, which makes the check of
 * CheckCmdReplicaIdentity, but it runs nothing: no row is touched and no trigger fires, statement
 * triggers included. So the answer holds for every version, whatever its rules about generated columns,
 * deferrable keys or indexes are.
 */
export async function findRefusedWrites(
  session: Session,
  tables: readonly Table[],
): Promise<readonly RefusedWrite[]> {
  const refused: RefusedWrite[] = [];
  for (let at = 0; at < tables.length; at += BATCH_TABLES) {
    const batch = tables.slice(at, at + BATCH_TABLES);
    const probes = batch.flatMap(probesOf);
    if ((await failureOf(session, probes.map(({ sql }) => sql).join('; '))) === undefined) continue;
    for (const { table, kind, sql } of probes) {
      const sqlstate = await failureOf(session, sql);
      if (sqlstate === undefined || (sqlstate === NOT_ASKED && isKeyed(table))) continue;
      refused.push({ table, kind, sqlstate });
    }
  }
  return refused;
}

/** Tables per round trip while all is well. */
const BATCH_TABLES = 100;

function probesOf(
  table: Table,
): readonly { table: Table; kind: RefusedWrite['kind']; sql: string }[] {
  const name = quoteTable(table);
  const writable = copiedColumns(table).find(({ identity }) => identity !== 'a');
  const remove = {
    table,
    kind: 'DELETE',
    sql: `EXPLAIN DELETE FROM ONLY ${name} WHERE false`,
  } as const;
  if (writable === undefined) return [remove];
  const column = quoteIdentifier(writable.name);
  const update = `EXPLAIN UPDATE ONLY ${name} SET ${column} = ${column} WHERE false`;
  return [{ table, kind: 'UPDATE', sql: update }, remove];
}

/**
 * What CheckCmdReplicaIdentity raises: no replica identity, or one that the publication does not carry
 * whole; or a missing right. Any other failure (a lock) proves nothing and is thrown.
 */
const REFUSALS: ReadonlySet<string | undefined> = new Set(['55000', '42P10', '42501']);

/** The owner gave the right to write up, as one does for an audit table: then the catalog has to answer. */
const NOT_ASKED = '42501';

function isKeyed(table: Table): boolean {
  const generated = new Set(
    table.columns.filter(({ isGenerated }) => isGenerated).map(({ name }) => name),
  );
  if (table.key.some((name) => generated.has(name))) return false;
  return table.replicaIdentity === 'f' || table.key.length > 0;
}

/** The SQLSTATE with which the server refuses `sql`, or undefined; the surrounding transaction lives on. */
async function failureOf(session: Session, sql: string): Promise<string | undefined> {
  await session.query('SAVEPOINT understudy_probe');
  try {
    await session.query(sql);
    await session.query('RELEASE SAVEPOINT understudy_probe');
    return undefined;
  } catch (error) {
    const sqlstate = sqlstateOf(error);
    if (!REFUSALS.has(sqlstate)) throw error;
    await session.query('ROLLBACK TO SAVEPOINT understudy_probe');
    return sqlstate;
  }
}
