import { quoteIdentifier } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';

import { finding } from './checks.ts';
import { byOperator, type CheckContext, describeTable, field, nameOf } from './context.ts';
import type { Finding } from './finding.ts';

/** Of the excluded columns, generated ones that went with them included: what would keep them from being empty. */
const COLUMNS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
       a.attidentity <> '' AS is_identity,
       t.typtype = 'd' AS is_domain,
       EXISTS (SELECT FROM pg_index x
                WHERE x.indrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])
                  AND (x.indisprimary OR x.indisreplident)) AS is_key,
       EXISTS (SELECT FROM pg_index x
                WHERE x.indrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])
                  AND (to_jsonb(x) ->> 'indnullsnotdistinct')::boolean) AS is_null_unique,
       EXISTS (SELECT FROM pg_constraint k
                WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)
                  AND NOT k.convalidated
                  AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)) AS has_late_check,
       EXISTS (SELECT FROM pg_inherits i
                WHERE (i.inhparent = c.oid AND c.relkind = 'r')
                   OR (i.inhrelid = c.oid AND NOT c.relispartition)) AS has_family
  FROM unnest($1::oid[], $2::text[]) AS e (oid, attname)
  JOIN pg_class c ON c.oid = e.oid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = e.attname
  JOIN pg_type t ON t.oid = a.atttypid
 ORDER BY 1, 2, 3`;

/** An excluded column is there on the target, and empty: that must be possible, and no row may need it. */
export async function checkExcludedColumns(context: CheckContext): Promise<readonly Finding[]> {
  const { source, relations, selection } = context;
  const excluded = relations.tables.flatMap(({ oid, excludedColumns }) =>
    excludedColumns.map((column) => ({ oid, column })),
  );
  if (excluded.length === 0) return [];
  const rows = await source.query(COLUMNS_SQL, [
    excluded.map(({ oid }) => String(oid)),
    excluded.map(({ column }) => column),
  ]);
  const findings: Finding[] = [];
  for (const row of rows) {
    const table = nameOf(row);
    const key = relations.tables.find(
      ({ schema, name }) => schema === table.schema && name === table.name,
    )?.key;
    const isKey = row['is_key'] === 't' || key?.includes(field(row, 'attname')) === true;
    const cause = isKey ? 'rows are named by it' : await whyNeverEmpty(source, row);
    if (cause === undefined) continue;
    const column = quoteIdentifier(field(row, 'attname'));
    findings.push(
      unable(describeTable(table), `its column ${column} cannot be excluded: ${cause}`),
    );
  }
  for (const table of relations.tables) {
    if (table.excludedColumns.length === 0) continue;
    if (!table.columns.some(({ isGenerated }) => !isGenerated)) {
      findings.push(unable(describeTable(table), 'no column of it is left'));
    }
    const isOfRoot = table.partitionRoot !== undefined;
    const isNamed = selection.excludeColumns.some(
      ({ schema, name }) => schema === table.schema && name === table.name,
    );
    if (!isOfRoot || !isNamed) continue;
    findings.push(
      unable(
        describeTable(table),
        'it is a partition, whose columns are those of the partitioned table: name that',
      ),
    );
  }
  return findings;
}

function unable(object: string, cause: string): Finding {
  return finding(
    'excluded-column-needed',
    object,
    cause,
    byOperator('Take the --exclude-column back, or mask the values where they are read.'),
  );
}

async function whyNeverEmpty(source: Session, row: Row): Promise<string | undefined> {
  if (row['is_identity'] === 't') return 'it is GENERATED AS IDENTITY';
  if (row['is_null_unique'] === 't') return 'it is unique with NULLS NOT DISTINCT';
  if (row['has_late_check'] === 't') return 'a CHECK that is NOT VALID looks at it';
  if (row['has_family'] === 't') return 'its table inherits, or is inherited from';
  if (row['is_domain'] !== 't') return undefined;
  try {
    await source.query(`SELECT NULL::${field(row, 'type')}`);
    return undefined;
  } catch (error) {
    // not_null_violation, check_violation
    if (!['23502', '23514'].includes(sqlstateOf(error) ?? '')) throw error;
    return `its type ${field(row, 'type')} does not allow NULL`;
  }
}
