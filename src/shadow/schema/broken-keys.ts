import { constraintName } from '#src/core/schema-script.ts';
import type { Table, TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { nameOf, textOf } from './rows.ts';

export type BrokenKey = { readonly table: TableName; readonly constraint: string };

/**
 * Foreign keys that name rows which a row filter may leave out, or columns that are left out; and those of
 * MATCH FULL that would have some columns and lack others.
 */
const BROKEN_SQL = `
WITH RECURSIVE affected (oid, is_filtered, excluded) AS (
  SELECT oid, is_filtered, excluded
    FROM jsonb_to_recordset($1::jsonb) AS t (oid oid, is_filtered boolean, excluded jsonb)
  UNION
  SELECT i.inhparent, a.is_filtered, a.excluded
    FROM affected a
    JOIN pg_class c ON c.oid = a.oid AND c.relispartition
    JOIN pg_inherits i ON i.inhrelid = a.oid
)
SELECT DISTINCT n.nspname, c.relname, k.conname
  FROM affected a
  JOIN pg_constraint k ON k.contype = 'f' AND k.conparentid = 0 AND a.oid IN (k.conrelid, k.confrelid)
  JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (a.oid = k.confrelid AND (a.is_filtered OR EXISTS (
          SELECT FROM pg_attribute b
           WHERE b.attrelid = a.oid AND b.attnum = ANY (k.confkey) AND a.excluded ? b.attname)))
    OR (a.oid = k.conrelid AND k.confmatchtype = 'f' AND cardinality(k.conkey) > 1 AND EXISTS (
          SELECT FROM pg_attribute b
           WHERE b.attrelid = a.oid AND b.attnum = ANY (k.conkey) AND a.excluded ? b.attname))
 ORDER BY 1, 2, 3`;

/** The foreign keys of the source that need not hold on the target, since these tables are not there whole. */
export async function readBrokenKeys(
  source: Session,
  tables: readonly Table[],
): Promise<readonly BrokenKey[]> {
  const partial = tables.filter(
    ({ rowFilter, excludedColumns }) => rowFilter !== undefined || excludedColumns.length > 0,
  );
  if (partial.length === 0) return [];
  const parameter = partial.map(({ oid, rowFilter, excludedColumns }) => ({
    oid,
    is_filtered: rowFilter !== undefined,
    excluded: excludedColumns,
  }));
  const rows = await source.query(BROKEN_SQL, [JSON.stringify(parameter)]);
  return rows.map((row) => ({ table: nameOf(row), constraint: textOf(row, 'conname') }));
}

/** As `parseSchemaScript` takes them. */
export function namesOfKeys(keys: readonly BrokenKey[]): ReadonlySet<string> {
  return new Set(keys.map(({ table, constraint }) => constraintName(table, constraint)));
}
