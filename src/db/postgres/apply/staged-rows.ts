import { quoteIdentifier, quoteTable } from '#src/core/table.ts';

import { type ApplyTable, copyInto } from './apply-table.ts';

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

/** Where the rows to remove of a table are. */
function stagedTable(table: ApplyTable): string {
  return `pg_temp.understudy_${table.oid}`;
}

/** Make the place for the rows to remove, empty. It is emptied by each commit. */
export function stage(table: ApplyTable, isUsed: boolean): readonly string[] {
  const name = stagedTable(table);
  const columns = table.columns.map((column) => quoteIdentifier(column.name)).join(', ');
  const make = `CREATE TEMPORARY TABLE IF NOT EXISTS ${name} ON COMMIT DELETE ROWS
    AS SELECT ${columns} FROM ONLY ${quoteTable(table.name)} WITH NO DATA`;
  return isUsed ? [make, `TRUNCATE ${name}`] : [make];
}

export function copyStaged(table: ApplyTable): string {
  return copyInto(stagedTable(table), table);
}

/** A value longer than this stands for itself by its length until everything else is the same. */
const SHORT_BYTES_MAX = 2_000;

/**
 * The statement that removes what is staged, between settings under which it is one scan: the others of an
 * apply session are for statements that find their rows by an index.
 */
export function removeStaged(table: ApplyTable): {
  readonly before: readonly string[];
  readonly remove: string;
  readonly after: readonly string[];
} {
  // The second is no equality that a hash join would take: it is asked of the few rows that are alike in short.
  const remove = `
    WITH s AS MATERIALIZED (
      SELECT ${wholeText(table, 'r')} AS whole, ${shortText(table, 'r')} AS short, count(*) AS n,
             row_number() OVER () AS id
        FROM ${stagedTable(table)} AS r GROUP BY 1, 2)
    DELETE FROM ONLY ${quoteTable(table.name)} WHERE ctid = ANY (ARRAY (
      SELECT m.place
        FROM (SELECT t.ctid AS place, s.n, row_number() OVER (PARTITION BY s.id) AS i
                FROM ONLY ${quoteTable(table.name)} AS t
                JOIN s ON ${shortText(table, 't')} = s.short
                      AND ${wholeText(table, 't')} IS NOT DISTINCT FROM s.whole) AS m
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

/** The text of a row of `alias`, in which every value can be told from every other, NULL too. */
function wholeText(table: ApplyTable, alias: string): string {
  const values = table.columns.map(({ name }) => `${alias}.${quoteIdentifier(name)}`);
  return rowText(values);
}

function shortText(table: ApplyTable, alias: string): string {
  return rowText(
    table.columns.map(({ name, hasKnownLength }) => {
      const value = `${alias}.${quoteIdentifier(name)}`;
      if (!hasKnownLength) return value;
      return `CASE WHEN octet_length(${value}) <= ${SHORT_BYTES_MAX} THEN ${value}::text ELSE octet_length(${value})::text END`;
    }),
  );
}

function rowText(values: readonly string[]): string {
  return `ROW(${values.join(', ')})::text COLLATE "C"`;
}
