import { quoteIdentifier } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { captureNames, installSql, removeSql } from './capture-sql.ts';

/**
 * Make our event triggers on the source, or make them again. Production's commands that run meanwhile
 * are not waited for: they see all of it or nothing.
 *
 * Throws PRIVILEGE_MISSING.
 */
export async function installCapture(source: Session, shadowId: string): Promise<void> {
  await source.transaction(async () => {
    for (const sql of installSql(shadowId)) await source.query(sql);
  });
}

/** insufficient_privilege; what managed services say instead, feature_not_supported; no plpgsql. */
const REFUSALS: ReadonlySet<string | undefined> = new Set(['42501', '0A000', '42704']);

/** The SQLSTATE with which the server refuses to install them; undefined when it would not. Rolled back (trap 10). */
export async function tryCapture(source: Session): Promise<string | undefined> {
  await source.query('BEGIN');
  try {
    for (const sql of installSql('check000')) await source.query(sql);
    return undefined;
  } catch (error) {
    const sqlstate = sqlstateOf(error);
    if (!REFUSALS.has(sqlstate)) throw error;
    return sqlstate;
  } finally {
    await source.query('ROLLBACK');
  }
}

/** `on`: every trigger fires; `off`: some is gone, disabled, or runs another function. */
export async function readCapture(source: Session, shadowId: string): Promise<'on' | 'off'> {
  const names = captureNames(shadowId);
  const [row] = await source.query(
    `SELECT count(*) AS count
       FROM pg_catalog.pg_event_trigger t
       JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       JOIN unnest($1::text[], $2::text[]) AS u (name, event)
         ON u.name = t.evtname AND u.event = t.evtevent
      WHERE t.evtenabled IN ('O', 'A') AND n.nspname = 'understudy' AND p.proname = $3`,
    [
      names.triggers.map(({ name }) => name),
      names.triggers.map(({ event }) => event),
      names.functionName,
    ],
  );
  return Number(row?.['count']) === names.triggers.length ? 'on' : 'off';
}

/** Remove them, and our schema on the source if nothing is left in it. What there was to remove. */
export async function removeCapture(source: Session, shadowId: string): Promise<readonly string[]> {
  const names = captureNames(shadowId);
  const found = await source.query(
    `SELECT evtname FROM pg_catalog.pg_event_trigger WHERE evtname = ANY ($1::text[]) ORDER BY 1`,
    [names.triggers.map(({ name }) => name)],
  );
  const [left] = await source.query('SELECT to_regprocedure($1) IS NOT NULL AS exists', [
    `${names.function}()`,
  ]);
  if (found.length === 0 && left?.['exists'] !== 't') return [];
  await source.transaction(async () => {
    for (const sql of removeSql(shadowId)) await source.query(sql);
  });
  await dropEmptySchema(source);
  return found.map((row) => `event trigger ${quoteIdentifier(row['evtname'] ?? '')}`);
}

/** dependent_objects_still_exist, invalid_schema_name, and a schema of somebody else's. */
const SCHEMA_STAYS: ReadonlySet<string | undefined> = new Set(['2BP01', '3F000', '42501']);

async function dropEmptySchema(source: Session): Promise<void> {
  try {
    await source.query('DROP SCHEMA understudy');
  } catch (error) {
    if (!SCHEMA_STAYS.has(sqlstateOf(error))) throw error;
  }
}
