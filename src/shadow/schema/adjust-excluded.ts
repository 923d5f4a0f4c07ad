import { quoteIdentifier, type Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { adjust, type Adjustment, tableOf } from './adjust.ts';
import { textOf } from './rows.ts';

/**
 * An excluded column is there and empty. So it may be NULL, has no default, and no CHECK of its table may
 * look at it. Where the column is that of a partitioned table, of every level, from the root down: what is
 * taken from a parent is taken from its partitions, unless they have it of their own, too.
 */
const TREE = `
WITH RECURSIVE tree (oid, attname) AS (
  SELECT c.oid, t.attname
    FROM unnest($1::text[], $2::text[], $3::text[]) AS t (nspname, relname, attname)
    JOIN pg_namespace n USING (nspname)
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
  UNION
  SELECT i.inhparent, t.attname
    FROM tree t
    JOIN pg_class c ON c.oid = t.oid AND c.relispartition
    JOIN pg_inherits i ON i.inhrelid = t.oid
), excluded AS (
  SELECT n.nspname, c.relname, a.attrelid, a.attnum, a.attname, a.attnotnull,
         CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default_expression,
         (SELECT count(*) FROM pg_partition_ancestors(c.oid)) AS depth
    FROM tree t
    JOIN pg_class c ON c.oid = t.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.attname AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
)`;

const COLUMNS_SQL = `${TREE}
SELECT nspname, relname, attname, attnotnull, default_expression
  FROM excluded ORDER BY depth, nspname, relname, attnum`;

const CHECKS_SQL = `${TREE}
SELECT DISTINCT e.depth, e.nspname, e.relname, k.conname, k.coninhcount > 0 AS is_inherited,
       pg_get_constraintdef(k.oid) AS definition
  FROM excluded e
  JOIN pg_constraint k ON k.conrelid = e.attrelid AND k.contype = 'c' AND e.attnum = ANY (k.conkey)
 ORDER BY e.depth, e.nspname, e.relname, k.conname`;

/** Make room on the target for columns without values. */
export async function relaxExcluded(
  target: Session,
  shadowId: string,
  tables: readonly Table[],
): Promise<void> {
  const columns = tables.flatMap(({ schema, name, excludedColumns }) =>
    excludedColumns.map((column) => ({ schema, name, column })),
  );
  if (columns.length === 0) return;
  const parameters = [
    columns.map(({ schema }) => schema),
    columns.map(({ name }) => name),
    columns.map(({ column }) => column),
  ];
  await dropChecks(target, shadowId, parameters);
  const adjustments = (await target.query(COLUMNS_SQL, parameters)).flatMap((row) => {
    const column = quoteIdentifier(textOf(row, 'attname'));
    const object = `column ${tableOf(row)}.${column}`;
    const expression = row['default_expression'] ?? undefined;
    const found: Adjustment[] = [];
    if (row['attnotnull'] === 't') {
      const alter = `ALTER TABLE ${tableOf(row)} ALTER COLUMN ${column}`;
      found.push({
        object: `not null ${object}`,
        applied: `${alter} DROP NOT NULL`,
        undo: `${alter} SET NOT NULL`,
      });
    }
    if (expression !== undefined) {
      const alter = `ALTER TABLE ONLY ${tableOf(row)} ALTER COLUMN ${column}`;
      found.push({
        object: `default ${object}`,
        applied: `${alter} DROP DEFAULT`,
        undo: `${alter} SET DEFAULT ${expression}`,
      });
    }
    return found;
  });
  await adjust(target, shadowId, adjustments);
}

async function dropChecks(
  target: Session,
  shadowId: string,
  parameters: readonly (readonly string[])[],
): Promise<void> {
  const rows = await target.query(CHECKS_SQL, parameters);
  const drop = (row: (typeof rows)[number]): string =>
    `ALTER TABLE ${tableOf(row)} DROP CONSTRAINT IF EXISTS ${quoteIdentifier(textOf(row, 'conname'))}`;
  const own = rows.filter((row) => row['is_inherited'] !== 't');
  await adjust(
    target,
    shadowId,
    own.map((row): Adjustment => {
      const name = quoteIdentifier(textOf(row, 'conname'));
      // The rows that are there by then would not hold it.
      const definition = textOf(row, 'definition').replace(/(?: NOT VALID)?$/, ' NOT VALID');
      return {
        object: `check ${name} of ${tableOf(row)}`,
        applied: drop(row),
        undo: `ALTER TABLE ${tableOf(row)} ADD CONSTRAINT ${name} ${definition}`,
      };
    }),
  );
  // A partition may have it of its own besides. The parent's undo brings that back, too.
  for (const row of rows) if (row['is_inherited'] === 't') await target.query(drop(row));
}
