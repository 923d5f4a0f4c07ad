import type { TableName } from '#src/core/table.ts';
import { type SelectedRelations, USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { DumpExclusions } from '#src/db/postgres/schema-dump/schema-dump.ts';

import { textOf } from './rows.ts';

/**
 * Every relation of the user, and whether it is left out: tables that are not selected, the views that
 * read one of them (through others, too), the sequences that belong to any of these.
 */
const RELATIONS_SQL = `
WITH RECURSIVE left_out (oid) AS (
  SELECT c.oid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'f') AND c.oid <> ALL ($1::oid[]) AND ${USER_RELATIONS}
  UNION
  SELECT v.oid
    FROM left_out l
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid
                    AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
), left_out_too (oid) AS (
  SELECT oid FROM left_out
  UNION
  SELECT d.objid
    FROM left_out l
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid
                    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
)
SELECT n.nspname, c.relname, l.oid IS NOT NULL AS is_left_out
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN left_out_too l ON l.oid = c.oid
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND ${USER_RELATIONS}
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`;

/** What pg_dump has to leave out so that its script can be restored without the tables not selected. */
export async function readDumpExclusions(
  source: Session,
  selected: SelectedRelations,
): Promise<DumpExclusions> {
  const oids = [selected.tables, selected.partitioned, selected.unsupported].flatMap((relations) =>
    relations.map((relation) => String(relation.oid)),
  );
  const rows = await source.query(RELATIONS_SQL, [oids]);
  const bySchema = Map.groupBy(rows, (row) => textOf(row, 'nspname'));
  const schemas: string[] = [];
  const relations: TableName[] = [];
  for (const [schema, members] of bySchema) {
    const leftOut = members.filter((row) => row['is_left_out'] === 't');
    if (leftOut.length === members.length) schemas.push(schema);
    else relations.push(...leftOut.map((row) => ({ schema, name: textOf(row, 'relname') })));
  }
  return { schemas, relations };
}
