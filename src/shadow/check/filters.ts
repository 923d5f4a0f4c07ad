import type { ColumnExclusion, RowFilter } from '#src/core/row-filter.ts';
import { quoteIdentifier, quoteTable, type TableName } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { readBrokenKeys } from '#src/shadow/schema/broken-keys.ts';

import { finding } from './checks.ts';
import {
  byOperator,
  type CheckContext,
  describeTable,
  field,
  nameOf,
  onSource,
} from './context.ts';
import { checkExcludedColumns } from './excluded-columns.ts';
import type { Finding } from './finding.ts';

/** Row filters and column lists of a publication exist from here on. */
const PUBLICATION_FILTERS_MAJOR = 15;

/** Whether what --where and --exclude-column leave of the dataset can be copied, followed and compared. */
export async function checkFilters(context: CheckContext): Promise<readonly Finding[]> {
  const { where, excludeColumns } = context.selection;
  const other = checkOtherShadow(context);
  if (where.length === 0 && excludeColumns.length === 0) return other;
  const known = await readFilteredTables(context);
  return [
    ...other,
    ...checkNames(context, known),
    ...checkVersion(context),
    ...checkOverlap(context),
    ...(await checkPredicates(context, known)),
    ...(await checkExcludedColumns(context)),
    ...checkBlockedDdl(context),
    ...(await describeDataset(context)),
  ];
}

/** A dataset is fixed when its shadow is made. */
function checkOtherShadow({ otherShadowId }: CheckContext): readonly Finding[] {
  if (otherShadowId === undefined) return [];
  return [
    finding(
      'filter-other',
      `shadow ${otherShadowId}`,
      'the target has this shadow of the same tables with other filters, which cannot be changed',
      byOperator('Run with the filters that it was made with, or drop it first.'),
    ),
  ];
}

function filtersOf({ selection }: CheckContext): readonly (RowFilter | ColumnExclusion)[] {
  return [...selection.where, ...selection.excludeColumns];
}

function isSame(one: TableName, other: TableName): boolean {
  return one.schema === other.schema && one.name === other.name;
}

/** The columns of the selected tables that filters name, by quoted name. */
async function readFilteredTables(
  context: CheckContext,
): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const { source, relations } = context;
  const named = [...relations.tables, ...relations.partitioned].filter((table) =>
    filtersOf(context).some((filter) => isSame(filter, table)),
  );
  const rows = await source.query(
    `SELECT n.nspname AS schema, c.relname AS name, a.attname
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      WHERE c.oid = ANY ($1::oid[])`,
    [named.map(({ oid }) => String(oid))],
  );
  const byTable = Map.groupBy(rows, (row) => quoteTable(nameOf(row)));
  return new Map(
    [...byTable].map(([name, columns]) => [
      name,
      new Set(columns.map((row) => field(row, 'attname'))),
    ]),
  );
}

/** Of a shadow that exists, a table that was filtered may have gone since. */
function checkNames(
  { selection, resumedShadowId }: CheckContext,
  known: ReadonlyMap<string, ReadonlySet<string>>,
): readonly Finding[] {
  if (resumedShadowId !== undefined) return [];
  const fix = byOperator('Correct the name, in double quotes where it has capitals, or select it.');
  const unknown = [
    ...selection.where.filter((filter) => !known.has(quoteTable(filter))),
    ...selection.excludeColumns.filter((filter) => !known.has(quoteTable(filter))),
  ].map((filter) =>
    finding(
      'filter-unknown',
      describeTable(filter),
      'a filter names it, and there is no selected table of this name',
      fix,
    ),
  );
  const columns = selection.excludeColumns
    .filter((filter) => known.get(quoteTable(filter))?.has(filter.column) === false)
    .map((filter) =>
      finding(
        'filter-unknown',
        describeTable(filter),
        `its column ${quoteIdentifier(filter.column)} is to be excluded, and there is no column of this name`,
        fix,
      ),
    );
  return [...unknown, ...columns];
}

function checkVersion(context: CheckContext): readonly Finding[] {
  const { sourceServer, isFollowed } = context;
  if (!isFollowed || sourceServer.major >= PUBLICATION_FILTERS_MAJOR) return [];
  const tables = new Map(filtersOf(context).map((filter) => [describeTable(filter), filter]));
  return [...tables.keys()].map((table) =>
    finding(
      'filter-version',
      table,
      `it is filtered, and a publication of version ${sourceServer.major} can only carry whole tables`,
      byOperator(
        `Clone it without --follow, or without a filter, or follow a source of version ${PUBLICATION_FILTERS_MAJOR} or newer.`,
      ),
    ),
  );
}

/** A partition has the filters of the tables above it. */
function checkOverlap({ selection, relations }: CheckContext): readonly Finding[] {
  const parents = selection.where.filter((filter) =>
    relations.partitioned.some((table) => isSame(table, filter)),
  );
  return relations.tables.flatMap((table) => {
    const filters = selection.where.filter(({ predicate }) => predicate === table.rowFilter);
    if (table.rowFilter === undefined || filters.length > 0 || parents.length === 0) return [];
    return [
      finding(
        'filter-overlap',
        describeTable(table),
        'it has a row filter of its own, and one of a partitioned table that it belongs to',
        byOperator('Give the filter to the one or to the other.'),
      ),
    ];
  });
}

/** A publication depends on the columns that it names. */
function checkBlockedDdl({ relations, isFollowed }: CheckContext): readonly Finding[] {
  if (!isFollowed) return [];
  return relations.tables.flatMap(({ rowFilter, excludedColumns, ...table }) => {
    if (rowFilter === undefined && excludedColumns.length === 0) return [];
    const which = excludedColumns.length > 0 ? 'columns of it' : 'the columns of its row filter';
    return [
      finding(
        'filter-blocks-ddl',
        describeTable(table),
        `while it is followed, the source refuses to drop ${which} (without CASCADE, which ends the shadow) and to change their types`,
      ),
    ];
  });
}

/** A right is missing; that to read the table is for another check to name. */
const MAY_NOT_TRY = Symbol('may not try');
const LOCK_TIMEOUT_MS = 2_000;
const FIRST_NORMAL_OID = 16_384;

class RollBack extends Error {
  readonly objects: readonly string[];
  constructor(objects: readonly string[]) {
    super('roll back');
    this.objects = objects;
  }
}

async function checkPredicates(
  { source, sourceServer, selection, relations }: CheckContext,
  known: ReadonlyMap<string, ReadonlySet<string>>,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const filter of selection.where) {
    if (!known.has(quoteTable(filter))) continue;
    const isPartitioned = relations.partitioned.some((table) => isSame(table, filter));
    const cause = await whyUnusable(source, filter, isPartitioned ? '' : 'ONLY ');
    if (cause === undefined) continue;
    if (cause === MAY_NOT_TRY) {
      const { role, database } = sourceServer;
      findings.push(
        finding(
          'filter-invalid',
          describeTable(filter),
          'its row filter cannot be proven, for which a temporary table is made in a transaction that is rolled back',
          onSource(
            `GRANT TEMPORARY ON DATABASE ${quoteIdentifier(database.name)} TO ${quoteIdentifier(role.name)}`,
          ),
        ),
      );
      continue;
    }
    findings.push(
      finding(
        'filter-invalid',
        describeTable(filter),
        `its row filter cannot be used: ${cause}`,
        byOperator(
          'Write a condition over columns of this table, with built-in operators and functions that always give the same.',
        ),
      ),
    );
  }
  return findings;
}

/**
 * The server says whether a predicate is one: as that of a partial index of an empty temporary table of
 * the same columns, which must be boolean, immutable and about one row, without subqueries; in a
 * transaction that rolls back (trap 10). Whatever it uses that is not built in is among what the index
 * depends on: on the source that may change its meaning, and on 15 and later a publication refuses it.
 */
async function whyUnusable(
  source: Session,
  filter: RowFilter,
  only: string,
): Promise<string | typeof MAY_NOT_TRY | undefined> {
  try {
    await source.transaction(async () => {
      await source.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
      await source.query(
        `CREATE TEMPORARY TABLE understudy_filter (LIKE ${quoteTable(filter)}) ON COMMIT DROP`,
      );
      await source.query(
        `CREATE INDEX understudy_filter_index ON pg_temp.understudy_filter ((1)) WHERE (${filter.predicate})`,
      );
      const rows = await source.query(DEPENDENCIES_SQL);
      // The very statement that the copy and the verification read with.
      await source.query(
        `EXPLAIN SELECT 1 FROM ${only}${quoteTable(filter)} AS t WHERE (true) AND (${filter.predicate})`,
      );
      throw new RollBack(rows.map((row) => field(row, 'object')));
    });
    return undefined;
  } catch (error) {
    if (error instanceof RollBack) {
      return error.objects.length === 0
        ? undefined
        : `it uses ${error.objects.join(', ')}, which is not built in`;
    }
    const sqlstate = sqlstateOf(error);
    if (!(error instanceof OperatorError) || sqlstate === undefined) throw error;
    if (sqlstate === '42501') return MAY_NOT_TRY;
    return `${error.message} (SQLSTATE ${sqlstate})`;
  }
}

const DEPENDENCIES_SQL = `
SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) AS object
  FROM pg_depend d
 WHERE d.classid = 'pg_class'::regclass
   AND d.objid = (SELECT oid FROM pg_class
                   WHERE relname = 'understudy_filter_index' AND relnamespace = pg_my_temp_schema())
   AND d.refobjid >= ${FIRST_NORMAL_OID}
   AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_collation'::regclass)
 ORDER BY 1`;

/** What is left of each table, for whoever reads the check. */
async function describeDataset({ source, relations }: CheckContext): Promise<readonly Finding[]> {
  const broken = await readBrokenKeys(source, relations.tables);
  return [
    ...relations.tables.flatMap((table) => {
      const parts = [
        ...(table.rowFilter === undefined ? [] : [`only rows matching (${table.rowFilter})`]),
        ...(table.excludedColumns.length === 0
          ? []
          : [`not its columns ${table.excludedColumns.map(quoteIdentifier).join(', ')}`]),
      ];
      if (parts.length === 0) return [];
      return [
        finding(
          'table-filtered',
          describeTable(table),
          `${parts.join(', and ')} will be copied, followed and compared`,
        ),
      ];
    }),
    ...broken.map(({ table, constraint }) =>
      finding(
        'foreign-key-filtered',
        `foreign key ${quoteIdentifier(constraint)} of ${describeTable(table)}`,
        'a filter may leave out what it refers to, so it is NOT VALID on the target, or missing where a table is partitioned',
      ),
    ),
  ];
}
