import type { Session } from '#src/db/postgres/connection/session.ts';

/** The schema of everything that benchmarks make. */
export const SCHEMA = 'bench';

const ACC_ROWS = 5_000_000;
const WIDE_ROWS = 2_000_000;

export type BigTables = {
  readonly accRows: number;
  readonly wideRows: number;
  /** Heap and TOAST, without indexes. */
  readonly bytes: number;
};

/**
 * Two kinds of table: `acc`, narrow and cheap by row, as pgbench has them, and `wide`, eleven columns
 * whose types cost something to print, to parse and to hash. Made from row numbers, the same every time.
 */
export async function createBigTables(session: Session, scale: number): Promise<BigTables> {
  const accRows = Math.max(1000, Math.round(ACC_ROWS * scale));
  const wideRows = Math.max(1000, Math.round(WIDE_ROWS * scale));
  await session.query(`
    CREATE SCHEMA ${SCHEMA};
    CREATE TABLE ${SCHEMA}.acc (id bigint, branch int, balance int, filler char(84));
    CREATE TABLE ${SCHEMA}.wide (
      id bigint, name text, note text, doc jsonb, price numeric(12,2), quantity numeric,
      created_at timestamptz, day date, is_open boolean, score float8, ref uuid);
    INSERT INTO ${SCHEMA}.acc
      SELECT i, i % 1000, hashint8(i) % 100000, '' FROM generate_series(1, ${accRows}) AS g (i);
    INSERT INTO ${SCHEMA}.wide
      SELECT i, 'customer ' || i % 100000, repeat(md5(i::text), 1 + (i % 4)::int),
             jsonb_build_object('sku', 'S' || i % 5000, 'amount', i % 97, 'tags', jsonb_build_array('a', i % 7), 'express', i % 3 = 0),
             (i % 1000000) / 100.0, (i::bigint * 7919 % 1000003) / 1000.0,
             '2024-01-01 00:00:00+00'::timestamptz + i * '17 seconds'::interval,
             '2024-01-01'::date + (i % 730)::int, i % 5 = 0, sqrt(i), md5('u' || i)::uuid
        FROM generate_series(1, ${wideRows}) AS g (i);
    ALTER TABLE ${SCHEMA}.acc ADD PRIMARY KEY (id);
    ALTER TABLE ${SCHEMA}.wide ADD PRIMARY KEY (id);
    CREATE INDEX wide_created_at ON ${SCHEMA}.wide (created_at)`);
  // Otherwise the first to read pays for the hint bits.
  await session.query(`VACUUM (FREEZE, ANALYZE) ${SCHEMA}.acc`);
  await session.query(`VACUUM (FREEZE, ANALYZE) ${SCHEMA}.wide`);
  const [row] = await session.query(
    `SELECT pg_table_size('${SCHEMA}.acc') + pg_table_size('${SCHEMA}.wide') AS bytes`,
  );
  return { accRows, wideRows, bytes: Number(row?.['bytes']) };
}

export function describeBigTables({ accRows, wideRows, bytes }: BigTables): string {
  return `acc ${count(accRows)} rows of 4 columns, wide ${count(wideRows)} rows of 11, ${(bytes / 1e6).toFixed(0)} MB, two primary keys and one index`;
}

function count(rows: number): string {
  return rows.toLocaleString('en-US');
}
