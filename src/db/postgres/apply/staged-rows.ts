import { quoteIdentifier, quoteTable } from '#src/core/table.ts';

import type { ApplyTable } from './apply-table.ts';

/**
 * Rows of a table without a key are deleted by content. A batch's are brought over by COPY into a
 * temporary table of the same columns, whatever their types, and one statement finds as many rows like
 * each as there are to remove, in one scan of the table:
 *
 *     staged rows ─► text, count ─┐
 *     the table ──► text, place ──┴─ hash join ─► number them, take the first `count` ─► DELETE by place
 *
 * Rows are the same when their text is: what a verification goes by, too. `=` would take 1.0 for 1.00 and
 * does not exist for json or xml. The bytes in memory (`*=`) differ for values that print alike: a NaN
 * has many, and so has an array that once held a NULL.
 */

/** Make the temporary table `place` for rows to remove, empty. It is emptied by each commit. */
export function stage(table: ApplyTable, place: string, isUsed: boolean): readonly string[] {
  const columns = table.columns.map((column) => quoteIdentifier(column.name)).join(', ');
  const make = `CREATE TEMPORARY TABLE IF NOT EXISTS ${place} ON COMMIT DELETE ROWS
    AS SELECT ${columns} FROM ONLY ${quoteTable(table.name)} WITH NO DATA`;
  return isUsed ? [make, `TRUNCATE ${place}`] : [make];
}

/** A value longer than this is stood for by its length until everything else is the same. */
const SHORT_BYTES_MAX = 2_000;

/**
 * The statement that removes what is staged, between settings under which it is one scan: the others of an
 * apply session are for statements that find their rows by an index.
 */
export function removeStaged(
  table: ApplyTable,
  place: string,
): {
  readonly before: readonly string[];
  readonly remove: string;
  readonly after: readonly string[];
} {
  // The second is no equality that a hash join would take: it is asked of the few rows that are alike in short.
  const remove = `
    WITH s AS MATERIALIZED (
      SELECT ${shortText(table, 'r')} AS short, ${longText(table, 'r')} AS long, count(*) AS n,
             row_number() OVER () AS id
        FROM ${place} AS r GROUP BY 1, 2)
    DELETE FROM ONLY ${quoteTable(table.name)} WHERE ctid = ANY (ARRAY (
      SELECT m.place
        FROM (SELECT t.ctid AS place, s.n, row_number() OVER (PARTITION BY s.id) AS i
                FROM ${likelyRows(table, place)} AS t
                JOIN s ON ${shortText(table, 't')} = s.short
                      AND ${longText(table, 't')} IS NOT DISTINCT FROM s.long) AS m
       WHERE m.i <= m.n))`;
  return {
    before: Object.entries(SCAN_SETTINGS).map(([name, [on]]) => `SET LOCAL ${name} = ${on}`),
    remove,
    after: Object.entries(SCAN_SETTINGS).map(([name, [, off]]) => `SET LOCAL ${name} = ${off}`),
  };
}

/** For the statement, and as the apply session has it otherwise. */
const SCAN_SETTINGS: Readonly<Record<string, readonly [string, string]>> = {
  enable_seqscan: ['on', 'off'],
  enable_hashjoin: ['on', 'off'],
  enable_nestloop: ['off', 'on'],
  // A batch's rows stay in memory.
  work_mem: [`'64MB'`, 'DEFAULT'],
  jit: ['off', 'DEFAULT'],
};

/**
 * Types of fixed length, and a value of each for NULL, which no hash finds. Of values with the same text `=`
 * is true. Those that differ from row to row come first.
 */
const FIXED_TYPES: ReadonlyMap<number, string> = new Map([
  [2950, `'00000000-0000-0000-0000-000000000000'`], // uuid
  [1184, `'epoch'`], // timestamptz
  [1114, `'epoch'`], // timestamp
  [20, '0'], // int8
  [23, '0'], // int4
  [1082, `'epoch'`], // date
  [21, '0'], // int2
]);
/** So many columns tell nearly all rows apart. */
const FIXED_COLUMNS_MAX = 3;

/**
 * The rows of the table, without most of those that are like no staged one, so that few need a text: that
 * costs ten times as much as to look up some values of fixed length. OFFSET 0 keeps this order.
 */
function likelyRows(table: ApplyTable, place: string): string {
  const columns = [...FIXED_TYPES]
    .flatMap(([oid, none]) =>
      table.columns.flatMap(({ name, typeOid }) =>
        typeOid === oid
          ? [(alias: string) => `coalesce(${alias}.${quoteIdentifier(name)}, ${none})`]
          : [],
      ),
    )
    .slice(0, FIXED_COLUMNS_MAX);
  if (columns.length === 0) return `ONLY ${quoteTable(table.name)}`;
  const row = (alias: string): string => columns.map((value) => value(alias)).join(', ');
  return `(SELECT c.ctid, c.* FROM ONLY ${quoteTable(table.name)} AS c
            WHERE (${row('c')}) IN (SELECT ${row('r')} FROM ${place} AS r) OFFSET 0)`;
}

/** The text of a row of `alias`, in which every value can be told from every other, NULL too. */
function wholeText(table: ApplyTable, alias: string): string {
  return rowText(table.columns.map(({ name }) => `${alias}.${quoteIdentifier(name)}`));
}

/** The same with lengths for long values; and which they are, since a short value may read like a length. */
function shortText(table: ApplyTable, alias: string): string {
  const values = table.columns.map(({ name, hasKnownLength }) => {
    const value = `${alias}.${quoteIdentifier(name)}`;
    if (!hasKnownLength) return value;
    return `CASE WHEN octet_length(${value}) > ${SHORT_BYTES_MAX} THEN octet_length(${value})::text ELSE ${value}::text END`;
  });
  const long = longValues(table, alias);
  return rowText(long === undefined ? values : [...values, long]);
}

/** The whole text where the short one does not say everything, else NULL. */
function longText(table: ApplyTable, alias: string): string {
  const long = longValues(table, alias);
  if (long === undefined) return 'NULL::text';
  return `CASE WHEN true = ANY (${long}) THEN ${wholeText(table, alias)} END`;
}

/** Of each column that can be, whether its value is long; undefined when none can be. */
function longValues(table: ApplyTable, alias: string): string | undefined {
  const long = table.columns
    .filter(({ hasKnownLength }) => hasKnownLength)
    .map(({ name }) => `octet_length(${alias}.${quoteIdentifier(name)}) > ${SHORT_BYTES_MAX}`);
  return long.length === 0 ? undefined : `ARRAY[${long.join(', ')}]`;
}

function rowText(values: readonly string[]): string {
  return `ROW(${values.join(', ')})::text COLLATE "C"`;
}
