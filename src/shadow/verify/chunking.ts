import * as z from 'zod';

import {
  chooseStrategy,
  type Chunking,
  chunkOfText,
  hashChunks,
  rangeWidth,
  WHOLE,
} from '#src/core/chunk.ts';
import { quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/** How each table is cut, by the source's table OID. */
export type ChunkingByTable = ReadonlyMap<number, Chunking>;

type Sides = { readonly source: Session; readonly target: Session };

/**
 * Decide how each table is cut and write it down, once, when the copy is done and before the first
 * change is applied: marks made under one plan mean nothing under another, so what is already written
 * stays.
 */
export async function planChunking(
  options: Sides & { readonly shadowId: string; readonly tables: readonly Table[] },
): Promise<ChunkingByTable> {
  const { target, shadowId } = options;
  const known = await readChunking(target, shadowId);
  const copied = await target.query(
    'SELECT source_oid, rows FROM understudy.relation WHERE shadow_id = $1',
    [shadowId],
  );
  const rowsCopied = new Map(copied.map((row) => [Number(row['source_oid']), Number(row['rows'])]));
  const tables = options.tables
    .filter(({ oid }) => !known.has(oid))
    .map((table) => ({ ...table, rowsEstimate: rowsCopied.get(table.oid) ?? table.rowsEstimate }));
  const proposed = await proposeChunking({ ...options, tables });
  const rows = [...proposed];
  await target.query(
    `INSERT INTO understudy.chunking (shadow_id, source_oid, strategy, column_name, width)
     SELECT $1, * FROM unnest($2::int8[], $3::text[], $4::text[], $5::int8[])
     ON CONFLICT DO NOTHING`,
    [
      shadowId,
      rows.map(([oid]) => String(oid)),
      rows.map(([, { strategy }]) => strategy),
      rows.map(([, { column }]) => column ?? ''),
      rows.map(([, { width }]) => String(width)),
    ],
  );
  return readChunking(target, shadowId);
}

export async function readChunking(target: Session, shadowId: string): Promise<ChunkingByTable> {
  const rows = await target.query(
    'SELECT source_oid, strategy, column_name, width FROM understudy.chunking WHERE shadow_id = $1',
    [shadowId],
  );
  return new Map(
    rows.map((row) => {
      const strategy = strategyText.parse(row['strategy']);
      const column = strategy === 'whole' ? undefined : (row['column_name'] ?? '');
      return [Number(row['source_oid']), { strategy, column, width: BigInt(row['width'] ?? '1') }];
    }),
  );
}

const strategyText = z.enum(['range', 'hash', 'whole']);

/** As `planChunking`, without a ledger: for a comparison that leaves nothing behind. */
export async function proposeChunking(
  options: Sides & { readonly tables: readonly Table[] },
): Promise<ChunkingByTable> {
  const hashAgrees = await textHashAgrees(options);
  const chunkings = new Map<number, Chunking>();
  for (const table of options.tables) {
    const { strategy, column } = chooseStrategy(table);
    if (strategy === 'range') {
      chunkings.set(table.oid, await rangeChunking(options.source, table, column ?? ''));
    } else if (strategy === 'hash' && hashAgrees) {
      const width = hashChunks(rowsOf(table));
      chunkings.set(table.oid, { strategy, column, width });
    } else {
      chunkings.set(table.oid, WHOLE);
    }
  }
  return chunkings;
}

async function rangeChunking(source: Session, table: Table, column: string): Promise<Chunking> {
  const name = quoteIdentifier(column);
  const [keys] = await source.query(
    `SELECT min(${name}) AS low, max(${name}) AS high FROM ONLY ${quoteTable(table)}`,
  );
  const [stats] = await source.query(
    `SELECT bounds[2] AS low, bounds[array_length(bounds, 1) - 1] AS high
       FROM (SELECT histogram_bounds::text::int8[] AS bounds FROM pg_stats
              WHERE schemaname = $1 AND tablename = $2 AND attname = $3 AND NOT inherited) AS s
      WHERE array_length(bounds, 1) > 50`,
    [table.schema, table.name, column],
  );
  const width = rangeWidth({
    middle:
      stats === undefined
        ? undefined
        : { low: BigInt(stats['low'] ?? '0'), high: BigInt(stats['high'] ?? '0') },
    low: BigInt(keys?.['low'] ?? '0'),
    high: BigInt(keys?.['high'] ?? '0'),
    rows: rowsOf(table),
  });
  return { strategy: 'range', column, width };
}

/** Rows of a table that was never analysed, by its size. */
const ROWS_PER_PAGE = 60;

function rowsOf(table: Table): bigint {
  return BigInt(table.rowsEstimate < 0 ? table.pages * ROWS_PER_PAGE : table.rowsEstimate);
}

/** Lengths around the block of twelve bytes that the hash works in, and bytes above 127. */
const HASH_VECTORS = [
  '',
  'a',
  'elevenchars',
  'twelve chars',
  'Größe',
  '2b6f0cc9-04d5',
  'ü'.repeat(20),
];

/**
 * Whether both servers give the chunk numbers that we compute: not with another encoding, whose bytes
 * differ from those of the stream, nor on a big-endian machine. Such tables are read whole.
 */
async function textHashAgrees({ source, target }: Sides): Promise<boolean> {
  const chunking: Chunking = { strategy: 'hash', column: 'k', width: 2n ** 32n };
  const expected = HASH_VECTORS.map((text) => String(chunkOfText(chunking, text)));
  const answers = await Promise.all(
    [source, target].map(async (session) => {
      const [server] = await session.query("SELECT current_setting('server_encoding') AS encoding");
      // Another encoding need not even have these characters.
      if (server?.['encoding'] !== 'UTF8') return false;
      const [row] = await session.query(
        `SELECT string_agg((hashtextextended(k COLLATE "C", 0) & 4294967295)::text, ',' ORDER BY n) AS chunks
           FROM unnest($1::text[]) WITH ORDINALITY AS v (k, n)`,
        [HASH_VECTORS],
      );
      return row?.['chunks'] === expected.join(',');
    }),
  );
  return answers.every(Boolean);
}
