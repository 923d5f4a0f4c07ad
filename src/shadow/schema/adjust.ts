import { quoteIdentifier, quoteTable, type TableName } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';

import { nameOf, textOf } from './rows.ts';

/**
 * What has to differ from the source while a table is shadowed. Each difference is read from the
 * target's catalog, made, and recorded with its undo, all in the caller's transaction.
 */
export type Adjustment = {
  /** What it is made to: unique for a shadow. */
  readonly object: string;
  readonly applied: string;
  readonly undo: string;
};

/** From here on partitions share their parent's identity, and only the parent's can be altered. */
const SHARED_IDENTITY_VERSION = 170_000;

const IDENTITY_SQL = `
SELECT n.nspname, c.relname, a.attname
  FROM unnest($1::text[], $2::text[]) AS t (nspname, relname)
  JOIN pg_namespace n USING (nspname)
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
  JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attidentity = 'a'
 WHERE NOT (c.relispartition AND $3)
 ORDER BY 1, 2, a.attnum`;

/** An UPDATE that sets a GENERATED ALWAYS column is refused, and one that changes the key has to. */
export async function relaxIdentity(
  target: Session,
  shadowId: string,
  tables: readonly TableName[],
): Promise<void> {
  const rows = await target.query(IDENTITY_SQL, [
    ...namesOf(tables),
    target.serverVersion >= SHARED_IDENTITY_VERSION,
  ]);
  const adjustments = rows.map((row): Adjustment => {
    const column = quoteIdentifier(textOf(row, 'attname'));
    const alter = `ALTER TABLE ${tableOf(row)} ALTER COLUMN ${column} SET GENERATED`;
    return {
      object: `identity ${tableOf(row)}.${column}`,
      applied: `${alter} BY DEFAULT`,
      undo: `${alter} ALWAYS`,
    };
  });
  await adjust(target, shadowId, adjustments);
}

const FORCED_SQL = `
SELECT n.nspname, c.relname
  FROM unnest($1::text[], $2::text[]) AS t (nspname, relname)
  JOIN pg_namespace n USING (nspname)
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
 WHERE c.relforcerowsecurity
   AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user)
 ORDER BY 1, 2`;

/** Forced policies would stop us, the owner, from reading and writing all rows (trap 5). */
export async function relaxRowSecurity(
  target: Session,
  shadowId: string,
  tables: readonly TableName[],
): Promise<void> {
  const rows = await target.query(FORCED_SQL, namesOf(tables));
  const adjustments = rows.map((row): Adjustment => ({
    object: `row security ${tableOf(row)}`,
    applied: `ALTER TABLE ONLY ${tableOf(row)} NO FORCE ROW LEVEL SECURITY`,
    undo: `ALTER TABLE ONLY ${tableOf(row)} FORCE ROW LEVEL SECURITY`,
  }));
  await adjust(target, shadowId, adjustments);
}

const FIRING_SQL = `
WITH RECURSIVE tree (oid) AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = $1 AND c.relname = $2
  UNION ALL
  SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
), firing AS (
  SELECT 'TRIGGER' AS kind, tgrelid AS relid, tgname AS name, tgenabled AS enabled FROM pg_trigger
  UNION ALL
  SELECT 'RULE', ev_class, rulename, ev_enabled FROM pg_rewrite
)
SELECT n.nspname, c.relname, f.kind, f.name, f.enabled
  FROM tree t JOIN firing f ON f.relid = t.oid
  JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE f.enabled IN ('A', 'R')
 ORDER BY 1, 2, 3, 4`;

/** ENABLE ALWAYS and ENABLE REPLICA triggers and rules do fire for what we apply (trap 13). */
export async function silenceTriggers(
  target: Session,
  shadowId: string,
  table: TableName,
): Promise<void> {
  const rows = await target.query(FIRING_SQL, [table.schema, table.name]);
  const adjustments = rows.map((row): Adjustment => {
    const kind = textOf(row, 'kind');
    const name = quoteIdentifier(textOf(row, 'name'));
    const mode = textOf(row, 'enabled') === 'A' ? 'ALWAYS' : 'REPLICA';
    // ONLY: its partitions have a mode of their own, which may be another.
    const alter = `ALTER TABLE ONLY ${tableOf(row)}`;
    return {
      object: `${kind.toLowerCase()} ${name} on ${tableOf(row)}`,
      applied: `${alter} DISABLE ${kind} ${name}`,
      undo: `${alter} ENABLE ${mode} ${kind} ${name}`,
    };
  });
  await adjust(target, shadowId, adjustments);
}

/** Make the adjustments and record them. */
export async function adjust(
  target: Session,
  shadowId: string,
  adjustments: readonly Adjustment[],
): Promise<void> {
  if (adjustments.length === 0) return;
  await target.query(adjustments.map((adjustment) => adjustment.applied).join(';\n'));
  await target.query(
    `INSERT INTO understudy.adjustment (shadow_id, object, applied, undo)
     SELECT $1, object, applied, undo
       FROM unnest($2::text[], $3::text[], $4::text[]) AS a (object, applied, undo)
     -- A parent's ALWAYS reaches its partitions again when a later statement alters the parent.
     ON CONFLICT (shadow_id, object) DO UPDATE SET undo = excluded.undo`,
    [
      shadowId,
      adjustments.map((adjustment) => adjustment.object),
      adjustments.map((adjustment) => adjustment.applied),
      adjustments.map((adjustment) => adjustment.undo),
    ],
  );
}

function namesOf(tables: readonly TableName[]): readonly [readonly string[], readonly string[]] {
  return [tables.map((table) => table.schema), tables.map((table) => table.name)];
}

/** The table of a row with `nspname` and `relname`. */
export function tableOf(row: Row): string {
  return quoteTable(nameOf(row));
}
