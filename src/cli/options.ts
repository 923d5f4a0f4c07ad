import { Option } from '@commander-js/extra-typings';

import {
  type ColumnExclusion,
  parseColumnExclusion,
  parseRowFilter,
  type RowFilter,
  sortFilters,
} from '#src/core/row-filter.ts';
import { OWNERS_POLICIES } from '#src/core/schema-owners.ts';
import type { Selection } from '#src/core/selection.ts';
import { loadFilters } from '#src/db/postgres/endpoint/stores-file.ts';

import {
  durationOrOff,
  integer,
  oneOf,
  parseOption,
  path,
  pattern,
  position,
  size,
  store,
  type ValueKind,
} from './values.ts';

/*
 * Every option of every command: flag, meaning, kind with unit and limits, default. Commands pick from
 * here, so that one flag means one thing everywhere and --help cannot differ from what is accepted.
 */

/** Default of --max-source-wal. */
export const SOURCE_WAL_BYTES_MAX = 10 * 2 ** 30;

/** Default of --stopped-spool-max. */
export const STOPPED_SPOOL_BYTES_MAX = 10 * 2 ** 30;

const JOBS = integer({ min: 1, max: 32 });
const SOURCE_WAL = size({ min: '64MB', max: '100TB' });
const STOPPED_SPOOL = size({ min: '1MB', max: '100TB' });
const MAX_LAG = durationOrOff({ min: '1s', max: '365d' });
const LOG_LEVELS = oneOf(['error', 'warn', 'info', 'debug', 'silent']);

export const OPTIONS = {
  source: new Option('--source <url>', 'database to shadow (URL, or a store of --config)')
    .argParser(one('--source', store))
    .makeOptionMandatory(),
  target: new Option(
    '--target <url>',
    'database that holds the shadow (URL, or a store of --config)',
  )
    .argParser(one('--target', store))
    .makeOptionMandatory(),
  schema: new Option('--schema <pattern>', 'only tables of these schemas; repeatable')
    .argParser(many('--schema', pattern))
    .default([], 'all'),
  table: new Option('--table <pattern>', 'only these tables, as in pg_dump; repeatable')
    .argParser(many('--table', pattern))
    .default([], 'all'),
  exclude: new Option('--exclude <pattern>', 'not these tables; repeatable')
    .argParser(many('--exclude', pattern))
    .default([], 'none'),
  where: new Option(
    '--where <filter>',
    "'schema.table: predicate', only these rows of a table; repeatable",
  )
    .argParser((text: string, before: readonly RowFilter[]) => [...before, parseRowFilter(text)])
    .default([], 'every row'),
  excludeColumn: new Option(
    '--exclude-column <column>',
    "'schema.table.column', without its values; repeatable",
  )
    .argParser((text: string, before: readonly ColumnExclusion[]) => [
      ...before,
      parseColumnExclusion(text),
    ])
    .default([], 'none'),
  owners: new Option(
    '--owners <policy>',
    `owners and grants: keep, where the target has the roles, or skip`,
  )
    .argParser(one('--owners', oneOf(OWNERS_POLICIES)))
    .default('keep'),
  config: new Option('--config <file>', 'YAML file that names stores and filters').argParser(
    one('--config', path),
  ),
  json: new Option('--json', 'print JSON, one object a line (docs/json.md)'),
  logLevel: new Option(
    '--log-level <level>',
    `log on standard error: ${LOG_LEVELS.expected} (default: warn, silent beside a live display)`,
  ).argParser(one('--log-level', LOG_LEVELS)),
  jobs: new Option('--jobs <n>', `connections that work at the same time: ${JOBS.expected}`)
    .argParser(one('--jobs', JOBS))
    .default(4),
  follow: new Option('--follow', 'go on applying changes until stopped'),
  ddlTriggers: new Option(
    '--ddl-triggers',
    'with --follow: install event triggers on the source that tell of schema changes exactly',
  ),
  verify: new Option('--verify', 'compare both sides once they are in step'),
  spool: new Option('--spool <dir>', 'folder that buffers changes')
    .argParser(one('--spool', path))
    .default(undefined, '~/.understudy/spool/<shadow>'),
  maxSourceWal: new Option(
    '--max-source-wal <size>',
    'most WAL that the source may retain for us; beyond it the shadow is given up, not the source',
  )
    .argParser(one('--max-source-wal', SOURCE_WAL))
    .default(SOURCE_WAL_BYTES_MAX, '10GB'),
  stoppedSpoolMax: new Option(
    '--stopped-spool-max <size>',
    'most of the spool that is kept for stopped tables alone; beyond it they must be copied again',
  )
    .argParser(one('--stopped-spool-max', STOPPED_SPOOL))
    .default(STOPPED_SPOOL_BYTES_MAX, '10GB'),
  maxLag: new Option(
    '--max-lag <time>',
    'lag beyond which the shadow is late, such as 30s, or off (default: as before, else off)',
  ).argParser(one('--max-lag', MAX_LAG)),
  untilLsn: new Option(
    '--until-lsn <lsn>',
    'with --follow: end once this position of the source is applied',
  ).argParser(one('--until-lsn', position)),
  repair: new Option('--repair', 'mend the rows that differ, at a second fence'),
  full: new Option('--full', 'read the source whole again, not only what changed since'),
  once: new Option('--once', 'end when the shadow has verified clean under load'),
} as const;

/** The dataset that a command line and its --config file name. Throws CONFIG_INVALID. */
export function selectionOf(options: {
  readonly schema: readonly string[];
  readonly table: readonly string[];
  readonly exclude: readonly string[];
  readonly where?: readonly RowFilter[];
  readonly excludeColumn?: readonly ColumnExclusion[];
  readonly config?: string | undefined;
}): Selection {
  const { schema: schemas, table: tables, exclude, where, excludeColumn, config } = options;
  // What verifies takes the filters of the shadow, which it finds without them.
  const isFilterable = where !== undefined && excludeColumn !== undefined;
  const file =
    config === undefined || !isFilterable ? { where: [], excludeColumns: [] } : loadFilters(config);
  return {
    schemas,
    tables,
    exclude,
    where: sortFilters('--where', [...(where ?? []), ...file.where]),
    excludeColumns: sortFilters('--exclude-column', [
      ...(excludeColumn ?? []),
      ...file.excludeColumns,
    ]),
  };
}

function one<T>(flag: string, kind: ValueKind<T>): (text: string) => T {
  return (text) => parseOption(flag, kind, text);
}

function many<T>(flag: string, kind: ValueKind<T>): (text: string, before: readonly T[]) => T[] {
  return (text, before) => [...before, parseOption(flag, kind, text)];
}
