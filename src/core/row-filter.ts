import { OperatorError } from '#src/lib/errors.ts';

import type { TableName } from './table.ts';

/**
 * Which rows and columns of a selected table belong to the dataset (docs/adr/0011-filters.md).
 *
 * A predicate is SQL of the user's that goes into statements of ours, always as `(predicate)`. So it must
 * be one piece between those parentheses whatever it says: `isOneExpression` reads it as the server's lexer
 * does and refuses what could end the parentheses, the statement or what follows. Whether it is a predicate
 * that may be used is then for the server to say (src/shadow/check/filters.ts).
 */

/** `--where 'schema.table: predicate'` */
export type RowFilter = TableName & { readonly predicate: string };

/** `--exclude-column 'schema.table.column'` */
export type ColumnExclusion = TableName & { readonly column: string };

/** What a filter makes of a table: part of `Table`. */
export type Filtered = {
  /** A boolean expression over the table's columns, without parentheses around it; undefined for every row. */
  readonly rowFilter: string | undefined;
  /** Columns of the source that do not belong to the dataset: empty on the target, never read. */
  readonly excludedColumns: readonly string[];
};

/** Throws CONFIG_INVALID. */
export function parseRowFilter(text: string): RowFilter {
  const named = parseNames(text);
  const [schema, name, third] = named.names;
  const predicate = text.slice(named.end).replace(/^\s*:/, '').trim();
  const isNamed = schema !== undefined && name !== undefined && third === undefined;
  if (!isNamed || !/^\s*:/.test(text.slice(named.end)) || predicate === '') {
    throw invalid(
      '--where',
      `'schema.table: predicate', with a name in double quotes where it has capitals`,
    );
  }
  if (!isOneExpression(predicate)) {
    throw invalid(
      '--where',
      `one expression, without comments, semicolons, E'' and $$ quotes, its parentheses in order, for ${schema}.${name}`,
    );
  }
  return { schema, name, predicate };
}

/** Throws CONFIG_INVALID. */
export function parseColumnExclusion(text: string): ColumnExclusion {
  const { names, end } = parseNames(text);
  const [schema, name, column] = names;
  const isNamed = schema !== undefined && name !== undefined && column !== undefined;
  if (!isNamed || names.length !== 3 || text.slice(end).trim() !== '') {
    throw invalid('--exclude-column', `'schema.table.column', not '${text}'`);
  }
  return { schema, name, column };
}

/** In one order, so that the same filters are the same text. Throws CONFIG_INVALID when two name the same. */
export function sortFilters<T extends TableName>(option: string, filters: readonly T[]): T[] {
  const keyOf = (filter: T): string =>
    JSON.stringify([filter.schema, filter.name, 'column' in filter ? filter.column : '']);
  const byKey = new Map(filters.map((filter) => [keyOf(filter), filter]));
  if (byKey.size === filters.length) {
    return [...byKey].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, filter]) => filter);
  }
  const twice = filters.find((filter) => byKey.get(keyOf(filter)) !== filter);
  throw new OperatorError(
    'CONFIG_INVALID',
    `${option} is given twice for ${twice?.schema}.${twice?.name}`,
  );
}

const SPACE = /\s*/y;
const BARE = /[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*/y;
const QUOTED = /"(?:[^"\0]|"")+"/y;

/** Names with dots between them, folded as the server does, and where they end. */
function parseNames(text: string): { readonly names: readonly string[]; readonly end: number } {
  const names: string[] = [];
  let at = 0;
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };
  for (;;) {
    match(SPACE);
    const quoted = match(QUOTED);
    const bare = quoted === undefined ? match(BARE) : undefined;
    if (quoted !== undefined) names.push(quoted.slice(1, -1).replaceAll('""', '"'));
    else if (bare !== undefined) names.push(foldCase(bare));
    else return { names: [], end: at };
    match(SPACE);
    if (text.charAt(at) !== '.') return { names, end: at };
    at += 1;
  }
}

/** In UTF-8 the server folds ASCII only. */
function foldCase(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase());
}

const CLOSING: Readonly<Record<string, string>> = { '(': ')', '[': ']' };
/** Quoted, a word, or any one character. A word does not begin with a digit: 14 reads `1$$` as a number and a quote. */
const TOKEN =
  /'(?:[^']|'')*'|"(?:[^"]|"")*"|[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*|[^]/gu;
/** An open quote, the end of a statement, a parameter or a dollar quote, what only psql or an E'' string knows. */
const REFUSED = new Set(["'", '"', ';', '$', '\\', '\0']);

/**
 * Whether `(text)` is one pair of parentheses to the server, under standard_conforming_strings = on, which
 * every session of ours pins (trap 6). It may still be no valid expression.
 * https://www.postgresql.org/docs/current/sql-syntax-lexical.html
 */
export function isOneExpression(text: string): boolean {
  const open: string[] = [];
  let before = '';
  for (const [token] of text.matchAll(TOKEN)) {
    if (REFUSED.has(token) || token.includes('\0')) return false;
    // In an E'' string a backslash escapes a quote.
    if (token.startsWith("'") && /^e$/i.test(before)) return false;
    // Comments.
    if ((before === '-' && token === '-') || (before === '/' && token === '*')) return false;
    const closing = CLOSING[token];
    if (closing !== undefined) open.push(closing);
    else if ((token === ')' || token === ']') && open.pop() !== token) return false;
    before = token;
  }
  return open.length === 0;
}

/** `(a) AND (b)` of the conditions that there are; `true` of none. */
export function conjunction(...conditions: readonly (string | undefined)[]): string {
  const present = conditions.filter((condition) => condition !== undefined && condition !== '');
  return present.length === 0 ? 'true' : present.map((condition) => `(${condition})`).join(' AND ');
}

function invalid(option: string, expected: string): OperatorError {
  return new OperatorError('CONFIG_INVALID', `${option} must be ${expected}`, {
    detail: { option },
  });
}
