import type { TableName } from '#src/core/table.ts';
import type { Row } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';

/** A column that is never NULL in the query that gave the row. */
export function textOf(row: Row, column: string): string {
  const value = row[column];
  assert(typeof value === 'string', `the catalog gave no ${column}`);
  return value;
}

/** Of a query that gives pg_namespace.nspname and pg_class.relname. */
export function nameOf(row: Row): TableName {
  return { schema: textOf(row, 'nspname'), name: textOf(row, 'relname') };
}
