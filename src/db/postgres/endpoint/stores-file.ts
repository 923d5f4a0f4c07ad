import { readFileSync } from 'node:fs';

import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';

import type { Endpoint } from '#src/core/endpoint.ts';
import {
  type ColumnExclusion,
  parseColumnExclusion,
  parseRowFilter,
  type RowFilter,
} from '#src/core/row-filter.ts';
import { OperatorError } from '#src/lib/errors.ts';

import {
  type ConnectionSettings,
  isConnectionString,
  parseConnectionString,
} from './connection-string.ts';
import { type Environment, resolveSettings, type Warn } from './endpoint.ts';

/**
 * The file that gives databases names, and tables filters:
 *
 *     stores:
 *       production:
 *         url: postgres://reader@db.example.com/shop
 *         password: env:PRODUCTION_PASSWORD
 *         sslmode: verify-full
 *         sslrootcert: system
 *       shadow: postgres://localhost/shadow
 *     filters:
 *       shop.orders:
 *         where: id > 1000
 *         excludeColumns: [note]
 *
 * Beside `url`, or instead of it, stand libpq's parameters; they win over the URL's.
 */
const scalar = z.union([z.string(), z.number()]).transform(String);
const store = z.strictObject({
  url: z.string().optional(),
  host: z.string().optional(),
  port: scalar.optional(),
  dbname: z.string().optional(),
  user: z.string().optional(),
  password: z.string().optional(),
  sslmode: z.string().optional(),
  sslrootcert: z.string().optional(),
  sslcert: z.string().optional(),
  sslkey: z.string().optional(),
  channel_binding: z.string().optional(),
  connect_timeout: scalar.optional(),
});
const urlOrStore = z.preprocess(
  (value) => (typeof value === 'string' ? { url: value } : value),
  store,
);
const filter = z.strictObject({
  where: z.string().optional(),
  excludeColumns: z.array(z.string()).optional(),
});
const storesFile = z.strictObject({
  stores: z.record(z.string(), urlOrStore).default({}),
  filters: z.record(z.string(), filter).default({}),
});

/** What the file says of one store, before environment and defaults. */
export type Store = z.output<typeof store>;

/**
 * The database that a text of the command line means: a connection string, or the name of a store.
 *
 * Throws CONFIG_INVALID.
 */
export function resolveStore(
  text: string,
  options: {
    readonly environment: Environment;
    /** The stores file, if the command was given one. */
    readonly storesPath?: string | undefined;
    readonly warn?: Warn;
  },
): Endpoint {
  const { environment, storesPath, warn } = options;
  if (isConnectionString(text)) {
    return resolveSettings(parseConnectionString(text), environment, warn);
  }
  if (storesPath === undefined) {
    throw invalid(`'${text}' is not a postgres:// URL, and no --config file names stores`);
  }
  const stores = loadStores(storesPath);
  const found = stores.get(text);
  if (found === undefined) {
    throw invalid(`${storesPath} has no store '${text}', only ${[...stores.keys()].join(', ')}`);
  }
  return resolveSettings(settingsOf(found), environment, warn);
}

/** The stores of a file by name. Throws CONFIG_INVALID with line and column, without the file's text. */
export function loadStores(path: string): ReadonlyMap<string, Store> {
  return new Map(Object.entries(loadFile(path).stores));
}

/** The filters of a file, as --where and --exclude-column have them. Throws CONFIG_INVALID. */
export function loadFilters(path: string): {
  readonly where: readonly RowFilter[];
  readonly excludeColumns: readonly ColumnExclusion[];
} {
  const filters = Object.entries(loadFile(path).filters);
  return {
    where: filters.flatMap(([table, { where }]) =>
      where === undefined ? [] : [parseRowFilter(`${table}: ${where}`)],
    ),
    excludeColumns: filters.flatMap(([table, { excludeColumns }]) =>
      (excludeColumns ?? []).map((column) => parseColumnExclusion(`${table}.${column}`)),
    ),
  };
}

function loadFile(path: string): z.output<typeof storesFile> {
  const lineCounter = new LineCounter();
  const document = parseDocument(readText(path), { lineCounter, prettyErrors: false });
  const place = (offset: number): string => {
    const { line, col } = lineCounter.linePos(offset);
    return `line ${line}, column ${col}`;
  };
  const [malformed] = document.errors;
  if (malformed !== undefined) {
    // The parser's message quotes the text, which may be a password; its code does not.
    const problem = malformed.code.toLowerCase().replaceAll('_', ' ');
    throw invalid(`${path} is not YAML: ${problem} at ${place(malformed.pos[0])}`);
  }
  const parsed = storesFile.safeParse(document.toJS());
  if (parsed.success) return parsed.data;
  // A misspelled key explains the missing one.
  const { issues } = parsed.error;
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0];
  const keys = issue?.path ?? [];
  const node: unknown = document.getIn(keys, true);
  const where = isNode(node) ? ` at ${place(node.range[0])}` : '';
  throw invalid(`${path}: ${[...keys, issue?.message ?? ''].join(': ')}${where}`);
}

function settingsOf({ url, ...given }: Store): ConnectionSettings {
  const named = Object.entries(given).filter(([, value]) => value !== undefined && value !== '');
  return { ...(url === undefined ? {} : parseConnectionString(url)), ...Object.fromEntries(named) };
}

function isNode(node: unknown): node is { readonly range: readonly [number, number, number] } {
  return typeof node === 'object' && node !== null && 'range' in node && Array.isArray(node.range);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new OperatorError('CONFIG_INVALID', `cannot read ${path}`, { cause });
  }
}

function invalid(problem: string): OperatorError {
  return new OperatorError('CONFIG_INVALID', problem);
}
