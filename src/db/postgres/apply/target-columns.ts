import { quoteIdentifier, type TableName } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';

import type { ApplyColumn } from './apply-table.ts';

/** The columns of some tables of the target by `schema.table` (as JSON), then by name. */
export type TargetColumns = ReadonlyMap<string, ReadonlyMap<string, ApplyColumn>>;

export const tableKey = (table: TableName): string => JSON.stringify([table.schema, table.name]);

/**
 * `base`: a domain's type under all domains. A cast from text to a type runs its input function, unless
 * a cast function exists. Those of "char", name and xml do what their input functions do; that of
 * regclass does not know the numbers that its output function writes, and users may define any.
 *
 * `equality`: the operator of a unique index over the column, which an extension has in its own schema.
 */
const COLUMNS_SQL = `
WITH RECURSIVE wanted AS (
  SELECT c.oid, n.nspname, c.relname
    FROM unnest($1::text[], $2::text[]) AS w (nspname, relname)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.nspname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname
), base (oid, base) AS (
  SELECT t.oid, t.oid FROM pg_catalog.pg_type t WHERE t.typtype <> 'd'
  UNION ALL
  SELECT t.oid, b.base FROM pg_catalog.pg_type t JOIN base b ON b.oid = t.typbasetype
   WHERE t.typtype = 'd'
), equality AS (
  SELECT DISTINCT ON (x.indrelid, k.attnum) x.indrelid, k.attnum, n.nspname, o.oprname
    FROM wanted w
    JOIN pg_catalog.pg_index x ON x.indrelid = w.oid AND x.indisunique AND x.indisvalid
   CROSS JOIN LATERAL unnest(x.indkey::int2[], x.indclass::oid[]) AS k (attnum, opclass)
    JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass
    JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
    JOIN pg_catalog.pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
     AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
    JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
   ORDER BY x.indrelid, k.attnum, x.indisprimary DESC, x.indexrelid
)
SELECT w.nspname, w.relname, a.attname, t.oid AS type_oid, t.typarray, a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
       t.typcategory = 'A' AS is_array,
       b.base IN ('pg_catalog."char"'::regtype, 'pg_catalog.name'::regtype, 'pg_catalog.xml'::regtype)
         OR NOT EXISTS (
         SELECT FROM pg_catalog.pg_cast
          WHERE castsource = 'pg_catalog.text'::regtype AND casttarget IN (t.oid, b.base)
            AND castmethod = 'f') AS is_cast_input,
       b.base IN ('pg_catalog.text'::regtype, 'pg_catalog.varchar'::regtype, 'pg_catalog.bytea'::regtype)
         AS has_known_length,
       e.nspname AS equality_schema, e.oprname AS equality_name
  FROM wanted w
  JOIN pg_catalog.pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  JOIN base b ON b.oid = t.oid
  LEFT JOIN equality e ON e.indrelid = w.oid AND e.attnum = a.attnum`;

export async function readTargetColumns(
  target: Session,
  tables: readonly TableName[],
): Promise<TargetColumns> {
  const rows = await target.query(COLUMNS_SQL, [
    tables.map((table) => table.schema),
    tables.map((table) => table.name),
  ]);
  const found = new Map<string, Map<string, ApplyColumn>>();
  for (const row of rows) {
    const key = tableKey({ schema: row['nspname'] ?? '', name: row['relname'] ?? '' });
    const columns = found.get(key) ?? new Map<string, ApplyColumn>();
    found.set(key, columns);
    columns.set(row['attname'] ?? '', columnOf(row));
  }
  return found;
}

function columnOf(row: Row): ApplyColumn {
  const schema = row['equality_schema'] ?? 'pg_catalog';
  return {
    name: row['attname'] ?? '',
    typeOid: Number(row['type_oid']),
    arrayOid: Number(row['typarray']),
    typeName: row['type_name'] ?? '',
    typeModifier: Number(row['atttypmod']),
    isArray: row['is_array'] === 't',
    isCastInput: row['is_cast_input'] === 't',
    hasKnownLength: row['has_known_length'] === 't',
    equality:
      schema === 'pg_catalog'
        ? '='
        : `OPERATOR(${quoteIdentifier(schema)}.${row['equality_name'] ?? '='})`,
  };
}
