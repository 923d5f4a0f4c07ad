import type { TableName } from '#src/core/table.ts';

import type { ApplyColumn } from './apply-table.ts';
import type { Session } from './session.ts';

/** The columns of some tables of the target by `schema.table` (as JSON), then by name. */
export type TargetColumns = ReadonlyMap<string, ReadonlyMap<string, ApplyColumn>>;

export const tableKey = (table: TableName): string => JSON.stringify([table.schema, table.name]);

export async function readTargetColumns(
  target: Session,
  tables: readonly TableName[],
): Promise<TargetColumns> {
  const rows = await target.query(
    `SELECT n.nspname, c.relname, a.attname, t.oid AS type_oid, t.typarray,
            pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
            (t.typcategory = 'A')::text AS is_array
       FROM unnest($1::text[], $2::text[]) AS w (nspname, relname)
       JOIN pg_catalog.pg_namespace n ON n.nspname = w.nspname
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
       JOIN pg_catalog.pg_type t ON t.oid = a.atttypid`,
    [tables.map((table) => table.schema), tables.map((table) => table.name)],
  );
  const found = new Map<string, Map<string, ApplyColumn>>();
  for (const row of rows) {
    const key = tableKey({ schema: row['nspname'] ?? '', name: row['relname'] ?? '' });
    const columns = found.get(key) ?? new Map<string, ApplyColumn>();
    found.set(key, columns);
    columns.set(row['attname'] ?? '', {
      name: row['attname'] ?? '',
      typeOid: Number(row['type_oid']),
      arrayOid: Number(row['typarray']),
      typeName: row['type_name'] ?? '',
      isArray: row['is_array'] === 'true',
    });
  }
  return found;
}
