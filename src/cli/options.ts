import { Option } from '@commander-js/extra-typings';

import type { Selection } from '#src/core/selection.ts';

import {
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
  config: new Option('--config <file>', 'YAML file that names stores').argParser(
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
  untilLsn: new Option(
    '--until-lsn <lsn>',
    'with --follow: end once this position of the source is applied',
  ).argParser(one('--until-lsn', position)),
  repair: new Option('--repair', 'mend the rows that differ, at a second fence'),
  full: new Option('--full', 'read the source whole again, not only what changed since'),
  once: new Option('--once', 'end when the shadow has verified clean under load'),
} as const;

export function selectionOf(options: {
  readonly schema: readonly string[];
  readonly table: readonly string[];
  readonly exclude: readonly string[];
}): Selection {
  return { schemas: options.schema, tables: options.table, exclude: options.exclude };
}

function one<T>(flag: string, kind: ValueKind<T>): (text: string) => T {
  return (text) => parseOption(flag, kind, text);
}

function many<T>(flag: string, kind: ValueKind<T>): (text: string, before: readonly T[]) => T[] {
  return (text, before) => [...before, parseOption(flag, kind, text)];
}
