import * as z from 'zod';

import type { Difference } from '#src/core/difference.ts';
import { quoteTable, type Table } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { planRowHashes, type RowHashPlan } from '#src/db/postgres/row-hash/row-hash-plan.ts';
import { type ColumnForm, rowHashExpression } from '#src/db/postgres/row-hash/row-hash.ts';

import type { PreparedTable } from './comparison.ts';
import type { Pair } from './pair.ts';

export type ComparableTable = Pick<PreparedTable, 'table' | 'hash' | 'isSameShape'>;

/** Which tables have rows that can be compared, and what is known before any row is read. */
export type Structure = {
  readonly comparable: readonly ComparableTable[];
  readonly differences: readonly Difference[];
};

/**
 * Compare what the tables are made of. A column that is not the same on both sides is a difference by
 * itself and its values are not compared; one that cannot be hashed is unverified.
 */
export async function compareStructure(pair: Pair, tables: readonly Table[]): Promise<Structure> {
  const targets = await readTargets(pair.target, tables);
  const plans = await planRowHashes({ ...pair, tables });
  const differences: Difference[] = [];
  const comparable: ComparableTable[] = [];
  for (const [index, table] of tables.entries()) {
    const target = targets[index];
    const plan = plans.get(table.oid);
    if (target === undefined || plan === undefined) {
      differences.push({ kind: 'schema', table, cause: 'is not on the target' });
      continue;
    }
    const causes = columnCauses(table, target);
    for (const cause of causes.values()) differences.push({ kind: 'schema', table, cause });
    // Rows that cannot be told apart on both sides cannot be compared.
    if (table.key.some((name) => causes.has(name))) continue;
    const same = plan.compared.filter(({ column }) => !causes.has(column));
    comparable.push({
      table,
      hash: await probe(pair, table, { ...plan, compared: same }),
      isSameShape: causes.size === 0,
    });
  }
  return { comparable, differences };
}

const columnsJson = z.array(z.object({ name: z.string(), type: z.string() }));

type TargetColumns = ReadonlyMap<string, string>;

/** Type names by column of each table on the target, in the order of `tables`. */
async function readTargets(
  target: Session,
  tables: readonly Table[],
): Promise<readonly (TargetColumns | undefined)[]> {
  const rows = await target.query(
    `SELECT (SELECT json_agg(json_build_object('name', a.attname,
                                               'type', format_type(a.atttypid, a.atttypmod)))
               FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, c.oid
       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (nspname, relname, n)
       LEFT JOIN pg_namespace s ON s.nspname = w.nspname
       LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = w.relname AND c.relkind = 'r'
      ORDER BY n`,
    [tables.map(({ schema }) => schema), tables.map(({ name }) => name)],
  );
  return rows.map((row) => {
    if (row['oid'] === null) return undefined;
    const columns = columnsJson.parse(JSON.parse(row['columns'] ?? '[]'));
    return new Map(columns.map(({ name, type }) => [name, type]));
  });
}

/** What is wrong, by column. */
function columnCauses(table: Table, target: TargetColumns): ReadonlyMap<string, string> {
  const causes = new Map<string, string>();
  for (const { name, typeName } of table.columns) {
    const type = target.get(name);
    if (type === undefined) causes.set(name, `column ${name} is not on the target`);
    else if (type !== typeName) causes.set(name, `column ${name} is ${typeName}, there ${type}`);
  }
  for (const name of target.keys()) {
    if (table.columns.some((column) => column.name === name)) continue;
    if (table.excludedColumns.includes(name)) continue;
    causes.set(name, `column ${name} is on the target only`);
  }
  return causes;
}

/** Leave out, by name, the columns for which a server does not know the functions. */
async function probe(pair: Pair, table: Table, plan: RowHashPlan): Promise<RowHashPlan> {
  if (await canHash(pair, table, plan.compared)) return plan;
  const compared: ColumnForm[] = [];
  const unverified = [...plan.unverified];
  for (const form of plan.compared) {
    if (await canHash(pair, table, [form])) compared.push(form);
    else unverified.push(form.column);
  }
  return { compared, unverified };
}

async function canHash(pair: Pair, table: Table, forms: readonly ColumnForm[]): Promise<boolean> {
  const sql = `SELECT ${rowHashExpression(forms, 't')} FROM ONLY ${quoteTable(table)} AS t LIMIT 0`;
  try {
    await Promise.all([pair.source.query(sql), pair.target.query(sql)]);
    return true;
  } catch (error) {
    // undefined_function and its like: class 42 is about the statement, not about rights or the server.
    const sqlstate = sqlstateOf(error) ?? '';
    if (sqlstate.startsWith('42') && sqlstate !== '42501') return false;
    throw error;
  }
}
