import { OperatorError } from '#src/lib/errors.ts';

import type { Selection } from './selection.ts';
import { quoteTable, type TableName } from './table.ts';

/**
 * pg_dump's patterns for --schema, --table and --exclude, compiled to predicates over names that were
 * read from the catalog. https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-PATTERNS
 *
 * Two differences, both on purpose. A pattern without a schema matches in every schema, where pg_dump
 * looks only at those on search_path: ours is empty (trap 6). `--schema` and `--table` add up, where
 * pg_dump ignores the one when it sees the other.
 */

/** Whether a name fits a pattern. */
export type NamePredicate = (table: TableName) => boolean;

/** A relation that may be selected by its own name, its schema, or those of a partitioned ancestor. */
export type Selectable = TableName & {
  /** From the direct parent up to the root of the partition tree; empty when not a partition. */
  readonly ancestors: readonly TableName[];
};

/**
 * The relations that `selection` means. What selects a partitioned table selects its leaves, excludes
 * win, and an exclude may match nothing.
 *
 * Throws SELECTION_EMPTY for a --schema or --table pattern that matches nothing, CONFIG_INVALID for
 * text that is not a pattern.
 */
export function selectRelations<T extends Selectable>(
  selection: Selection,
  relations: readonly T[],
): readonly T[] {
  const includes = [
    ...selection.schemas.map((text) => ({
      option: `--schema ${text}`,
      text,
      matches: compileSchemaPattern(text),
    })),
    ...selection.tables.map((text) => ({
      option: `--table ${text}`,
      text,
      matches: compileTablePattern(text),
    })),
  ];
  const excludes = selection.exclude.map(compileTablePattern);
  for (const { option, text, matches } of includes) {
    if (relations.some((relation) => lineage(relation).some(matches))) continue;
    throw new OperatorError('SELECTION_EMPTY', `no table matches ${option}`, {
      detail: { pattern: text },
    });
  }
  return relations.filter((relation) => {
    const names = lineage(relation);
    return (
      (includes.length === 0 || includes.some(({ matches }) => names.some(matches))) &&
      !excludes.some((matches) => names.some(matches))
    );
  });
}

/** The pattern that matches exactly this table, for a command line: `"shop"."orders"`. */
export function exactPattern(table: TableName): string {
  return quoteTable(table);
}

/** Compile a pattern of --table or --exclude: `name` or `schema.name`. */
export function compileTablePattern(text: string): NamePredicate {
  const parts = splitPattern(text);
  if (parts.length > 2) throw invalidPattern(text, 'it has more than one dot outside of quotes');
  const [schema, name] = parts.length === 2 ? parts : ['', parts[0]];
  const matchesSchema = compilePart(text, schema ?? '');
  const matchesName = compilePart(text, name ?? '');
  return (table) => matchesSchema(table.schema) && matchesName(table.name);
}

/** Compile a pattern of --schema: a name without a dot. */
export function compileSchemaPattern(text: string): NamePredicate {
  const parts = splitPattern(text);
  if (parts.length > 1) throw invalidPattern(text, 'a schema has no dot outside of quotes');
  const matches = compilePart(text, parts[0] ?? '');
  return (table) => matches(table.schema);
}

function lineage(relation: Selectable): readonly TableName[] {
  return [relation, ...relation.ancestors];
}

/** An empty part is no condition: `shop.` is every table of shop. */
function compilePart(text: string, source: string): (name: string) => boolean {
  if (source === '') return () => true;
  try {
    // 's': in Postgres a dot also matches a newline, and a name may hold one.
    const regex = new RegExp(`^(?:${source})$`, 'su');
    return (name) => regex.test(name);
  } catch {
    throw invalidPattern(text, 'it is not a regular expression');
  }
}

/** Splits at unquoted dots and translates each part to the source of a regular expression. */
function splitPattern(text: string): readonly string[] {
  if (text === '') throw invalidPattern(text, 'it is empty');
  const parts = [''];
  const state = { isQuoted: false, isInClass: false };
  for (let at = 0; at < text.length;) {
    const [source, length] = translateNext(text, at, state);
    if (source === SEPARATOR) parts.push('');
    else parts[parts.length - 1] += source;
    at += length;
  }
  if (state.isQuoted) throw invalidPattern(text, 'a double quote is not closed');
  return parts;
}

const SEPARATOR = Symbol('separator');
const REGEX_SPECIAL = '|*+?()[]{}.^$\\/';

/** POSIX classes, which JavaScript lacks. Names are folded to lower case before, as in pg_dump. */
const POSIX_CLASSES: Readonly<Record<string, string>> = {
  '[:alpha:]': '\\p{L}',
  '[:digit:]': '\\p{Nd}',
  '[:alnum:]': '\\p{L}\\p{Nd}',
  '[:lower:]': '\\p{Ll}',
  '[:upper:]': '\\p{Lu}',
  '[:space:]': '\\s',
  '[:punct:]': '\\p{P}\\p{S}',
};

/** The translation of what starts at `at`, and how many UTF-16 units it took. */
function translateNext(
  text: string,
  at: number,
  state: { isQuoted: boolean; isInClass: boolean },
): readonly [string | typeof SEPARATOR, number] {
  const char = String.fromCodePoint(text.codePointAt(at) ?? 0);
  if (char === '"') {
    if (state.isQuoted && text[at + 1] === '"') return ['"', 2];
    state.isQuoted = !state.isQuoted;
    return ['', 1];
  }
  if (state.isQuoted) return [REGEX_SPECIAL.includes(char) ? `\\${char}` : char, char.length];
  const posix = state.isInClass ? posixClassAt(text, at) : undefined;
  if (posix !== undefined) return [POSIX_CLASSES[posix] ?? '', posix.length];
  return [translateUnquoted(text, at, state), char.length];
}

/** The rules of patternToSQLRegex in fe_utils/string_utils.c, for one character outside of quotes. */
function translateUnquoted(
  text: string,
  at: number,
  state: { isInClass: boolean },
): string | typeof SEPARATOR {
  const char = String.fromCodePoint(text.codePointAt(at) ?? 0);
  if (char === '*') return '.*';
  if (char === '?') return '.';
  if (char === '.') return SEPARATOR;
  // Part of many names and never an anchor.
  if (char === '$') return '\\$';
  // Its escapes mean other things to Postgres and to JavaScript.
  if (char === '\\') throw invalidPattern(text, 'a backslash is allowed in double quotes only');
  if (state.isInClass) {
    if (char === ']') state.isInClass = false;
    return char === '[' ? '\\[' : foldCase(char);
  }
  // `[]` is rather an array type's name than the start of a character class.
  if (char === '[' && text[at + 1] === ']') return '\\[';
  if (char === '[') state.isInClass = true;
  return char === ']' || char === '/' ? `\\${char}` : foldCase(char);
}

function posixClassAt(text: string, at: number): string | undefined {
  return Object.keys(POSIX_CLASSES).find((name) => text.startsWith(name, at));
}

/** As the server folds an unquoted name: ASCII only in UTF-8. */
function foldCase(char: string): string {
  return /^[A-Z]$/.test(char) ? char.toLowerCase() : char;
}

function invalidPattern(text: string, why: string): OperatorError {
  return new OperatorError('CONFIG_INVALID', `pattern ${JSON.stringify(text)}: ${why}`);
}
