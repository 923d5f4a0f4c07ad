import { quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import type { UnsupportedTable } from '#src/db/postgres/catalog/catalog.ts';

import { finding } from './checks.ts';
import {
  type CheckContext,
  describeTable,
  excludeFix,
  nameOf,
  selectedOids,
  field,
} from './context.ts';
import type { Finding } from './finding.ts';
import { checkKeys } from './keys.ts';

/** Whether each selected table can be copied and followed exactly. */
export async function checkTables(context: CheckContext): Promise<readonly Finding[]> {
  const { relations } = context;
  const findings: Finding[] = [];
  if (relations.tables.length === 0) {
    findings.push(finding('no-tables', 'selection', 'there is no table to copy'));
  } else {
    findings.push(finding('source-locks', 'selection', SOURCE_LOCKS));
  }
  findings.push(
    ...relations.unsupported.map(describeUnsupported),
    ...(await checkKeys(context)),
    ...checkPartitions(context),
    ...(await checkParents(context)),
    ...relations.tables.flatMap(checkColumns),
    ...(await checkStorage(context)),
    ...(await checkTriggers(context)),
    ...(await checkRules(context)),
    ...(await checkForeignKeys(context)),
  );
  return findings;
}

const SOURCE_LOCKS =
  'TRUNCATE, VACUUM FULL and ALTER TABLE on a selected table wait while a part of it is copied or verified, ' +
  'and for a second or two while the definitions are read; reads and writes of rows wait for nothing';

function describeUnsupported(table: UnsupportedTable): Finding {
  const object = describeTable(table);
  switch (table.reason) {
    case 'unlogged':
      return finding(
        'unlogged-table',
        object,
        'it is unlogged: its rows are not in the WAL, so only its definition is carried over; it stays empty on the target and is not verified',
      );
    case 'foreign':
      return table.isPartition
        ? finding(
            'foreign-partition',
            object,
            'it is a partition whose rows are on another server, so the partitioned table would not be whole',
            excludeFix(table),
          )
        : finding(
            'foreign-table',
            object,
            'its rows are on another server: only its definition is carried over, and it is not verified',
          );
    default:
      return table.reason satisfies never;
  }
}

/** A leaf's definition cannot be restored without the tables above it. */
function checkPartitions({ relations }: CheckContext): readonly Finding[] {
  const partitioned = new Set(relations.partitioned.map(quoteTable));
  return relations.tables.flatMap((table) => {
    const root = table.partitionRoot;
    if (root === undefined || partitioned.has(quoteTable(root))) return [];
    return [
      finding(
        'partition-without-root',
        describeTable(table),
        `it is a partition of ${quoteTable(root)}, which is not selected`,
        { runOn: 'command', text: `--table '${quoteTable(root).replaceAll("'", `'\\''`)}'` },
      ),
    ];
  });
}

const PARENTS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, pn.nspname AS parent_schema, p.relname AS parent_name
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class p ON p.oid = i.inhparent
  JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE i.inhrelid = ANY ($1::oid[]) AND i.inhparent <> ALL ($1::oid[])
 ORDER BY 1, 2, i.inhseqno`;

/** Each table of an inheritance tree is copied by itself, but its definition names its parents. */
async function checkParents({ source, relations }: CheckContext): Promise<readonly Finding[]> {
  const oids = [...relations.tables, ...relations.unsupported].map(({ oid }) => String(oid));
  const rows = await source.query(PARENTS_SQL, [oids]);
  return rows.map((row) => {
    const parent = { schema: field(row, 'parent_schema'), name: field(row, 'parent_name') };
    return finding(
      'inheritance',
      describeTable(nameOf(row)),
      `it inherits from ${quoteTable(parent)}, which is not selected`,
      { runOn: 'command', text: `--table '${quoteTable(parent).replaceAll("'", `'\\''`)}'` },
    );
  });
}

/** Types whose values are, or contain, the number of a catalog row. */
const OID_TYPES = new Set(
  ['oid', 'regclass', 'regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper']
    .concat(['regoperator', 'regproc', 'regprocedure', 'regrole', 'regtype', 'regdatabase'])
    .flatMap((name) => [name, `_${name}`]),
);

function checkColumns(table: Table): readonly Finding[] {
  return table.columns
    .filter(({ builtinType }) => builtinType !== undefined && OID_TYPES.has(builtinType))
    .map(({ name, typeName }) =>
      finding(
        'oid-column',
        `column ${quoteTable(table)}.${quoteIdentifier(name)}`,
        `its type ${typeName} refers to catalog rows, which have other numbers on the target; the reg types travel by name, which must exist there`,
      ),
    );
}

const STORAGE_SQL = `
SELECT n.nspname AS schema, c.relname AS name, m.amname
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am m ON m.oid = c.relam
 WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'r' AND m.amname <> 'heap'
 ORDER BY 1, 2`;

async function checkStorage(context: CheckContext): Promise<readonly Finding[]> {
  const rows = await context.source.query(STORAGE_SQL, [selectedOids(context)]);
  return rows.map((row) =>
    finding(
      'access-method',
      describeTable(nameOf(row)),
      `its access method is ${field(row, 'amname')}; a table is copied by row positions that only heap is known to keep`,
      excludeFix(nameOf(row)),
    ),
  );
}

/** These fire also under session_replication_role=replica (trap 13). */
const TRIGGERS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, t.tgname, t.tgenabled
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')
 ORDER BY 1, 2, 3`;

async function checkTriggers(context: CheckContext): Promise<readonly Finding[]> {
  const rows = await context.source.query(TRIGGERS_SQL, [selectedOids(context)]);
  return rows.map((row) =>
    finding(
      'always-trigger',
      `trigger ${quoteIdentifier(field(row, 'tgname'))} of ${describeTable(nameOf(row))}`,
      `it is ENABLE ${row['tgenabled'] === 'A' ? 'ALWAYS' : 'REPLICA'} and would fire for our writes too, so it is disabled on the target while shadowed`,
    ),
  );
}

const RULES_SQL = `
SELECT n.nspname AS schema, c.relname AS name, r.rulename, r.ev_enabled IN ('A', 'R') AS is_always
  FROM pg_rewrite r
  JOIN pg_class c ON c.oid = r.ev_class
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[]) AND r.rulename <> '_RETURN' AND r.ev_enabled <> 'D'
 ORDER BY 1, 2, 3`;

async function checkRules(context: CheckContext): Promise<readonly Finding[]> {
  const rows = await context.source.query(RULES_SQL, [selectedOids(context)]);
  return rows.map((row) => {
    const table = nameOf(row);
    const object = `rule ${quoteIdentifier(field(row, 'rulename'))} of ${describeTable(table)}`;
    return row['is_always'] === 't'
      ? finding(
          'always-rule',
          object,
          'it is ENABLE ALWAYS or REPLICA and would rewrite what we apply, so it is disabled on the target while shadowed',
        )
      : finding('table-rule', object, 'it is carried over but does not act on what we apply');
  });
}

const FOREIGN_KEYS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, k.conname,
       fn.nspname AS other_schema, f.relname AS other_name
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class f ON f.oid = k.confrelid
  JOIN pg_namespace fn ON fn.oid = f.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND k.conrelid = ANY ($1::oid[]) AND k.confrelid <> ALL ($1::oid[])
 ORDER BY 1, 2, 3`;

async function checkForeignKeys(context: CheckContext): Promise<readonly Finding[]> {
  const rows = await context.source.query(FOREIGN_KEYS_SQL, [selectedOids(context)]);
  return rows.map((row) => {
    const other = { schema: field(row, 'other_schema'), name: field(row, 'other_name') };
    return finding(
      'foreign-key-outside',
      `foreign key ${quoteIdentifier(field(row, 'conname'))} of ${describeTable(nameOf(row))}`,
      `it references ${quoteTable(other)}, which is not selected, and is not made on the target`,
    );
  });
}
