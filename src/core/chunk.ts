import { hash } from 'node:crypto';

import { assert, assertNever } from '#src/lib/assert.ts';

import { type Column, quoteIdentifier } from './table.ts';

/**
 * How a table is cut into chunks. A chunk's number depends on the leading key column only, and is
 * computed twice: here, by the applier that marks chunks dirty, and in SQL, by the verification that
 * reads them. Both must agree for ever, so the rule is in docs/state.md and not in a server's own hash
 * functions, which may change between majors.
 */
export type Chunking = {
  readonly strategy: 'range' | 'hash' | 'whole';
  /** The leading key column; undefined exactly when the table is read whole. */
  readonly column: string | undefined;
  /** Key values in a chunk (range), number of chunks (hash), 0 (whole). */
  readonly width: bigint;
};

export type ChunkStrategy = Pick<Chunking, 'strategy' | 'column'>;

export const WHOLE: Chunking = { strategy: 'whole', column: undefined, width: 0n };

/** The one chunk of a table that is read whole. */
export const WHOLE_CHUNK = 0n;

const RANGE_TYPES = new Set(['int2', 'int4', 'int8']);
// Not bpchar: its ::text drops the padding, the stream keeps it. Not citext: equal keys may differ in text.
const HASH_TYPES = new Set(['text', 'varchar', 'uuid']);

const INT8_MIN = -(2n ** 63n);
const INT8_MAX = 2n ** 63n - 1n;

export function chooseStrategy(table: {
  readonly columns: readonly Pick<Column, 'name' | 'builtinType'>[];
  readonly key: readonly string[];
}): ChunkStrategy {
  const [column] = table.key;
  const type = table.columns.find(({ name }) => name === column)?.builtinType ?? '';
  if (column !== undefined && RANGE_TYPES.has(type)) return { strategy: 'range', column };
  if (column !== undefined && HASH_TYPES.has(type)) return { strategy: 'hash', column };
  return { strategy: 'whole', column: undefined };
}

/** The chunk of a key value under `range`: division that rounds down, also for negative keys. */
export function chunkOfInteger(chunking: Chunking, key: bigint): bigint {
  assert(chunking.strategy === 'range' && chunking.width > 0n, 'not a range chunking');
  const quotient = key / chunking.width;
  return key % chunking.width < 0n ? quotient - 1n : quotient;
}

/** The chunk of a row by the text (or its UTF-8 bytes) of its leading key value, under any strategy. */
export function chunkOfText(chunking: Chunking, key: string | Uint8Array): bigint {
  switch (chunking.strategy) {
    case 'whole':
      return WHOLE_CHUNK;
    case 'range':
      return chunkOfInteger(
        chunking,
        BigInt(typeof key === 'string' ? key : Buffer.from(key).toString('latin1')),
      );
    case 'hash':
      return BigInt(hash('md5', key, 'buffer').readUInt32BE(0)) % chunking.width;
    default:
      return assertNever(chunking.strategy);
  }
}

/**
 * The same number as an SQL expression over the row `alias`, of type int8. convert_to makes the bytes
 * of a database in another encoding those that the stream sends.
 */
export function chunkExpression(chunking: Chunking, alias: string): string {
  const column = `${alias}.${quoteIdentifier(chunking.column ?? '')}`;
  const width = `${chunking.width}::int8`;
  switch (chunking.strategy) {
    case 'whole':
      return `${WHOLE_CHUNK}::int8`;
    case 'range':
      // Not floor(): float8 has 53 bits, numeric is slow. No intermediate result leaves int8.
      return `(${column}::int8 / ${width} - (${column}::int8 % ${width} < 0)::int4)`;
    case 'hash':
      return `(('x' || substr(md5(convert_to(${column}::text, 'UTF8')), 1, 8))::bit(32)::int8 % ${width})`;
    default:
      return assertNever(chunking.strategy);
  }
}

/**
 * A condition that holds for exactly the rows of the chunks `from` … `to`. Under `range` an index on the
 * key serves it; int8 constants are indexable against int2 and int4 too.
 */
export function chunkCondition(
  chunking: Chunking,
  alias: string,
  span: { readonly from: bigint; readonly to: bigint },
): string {
  if (chunking.strategy === 'whole') return 'true';
  if (chunking.strategy === 'hash') {
    const expression = chunkExpression(chunking, alias);
    return `${expression} BETWEEN ${span.from}::int8 AND ${span.to}::int8`;
  }
  const column = `${alias}.${quoteIdentifier(chunking.column ?? '')}`;
  const first = span.from * chunking.width;
  const last = (span.to + 1n) * chunking.width - 1n;
  const conditions = [
    // Past the ends of int8 every key qualifies, and the constant could not be written.
    ...(first > INT8_MIN ? [`${column} >= '${first}'::int8`] : []),
    ...(last < INT8_MAX ? [`${column} <= '${last}'::int8`] : []),
  ];
  return conditions.length === 0 ? 'true' : conditions.join(' AND ');
}

/** Rows that a chunk should hold: about 50 ms of hashing, little to read again for one change. */
const CHUNK_ROWS = 20_000n;
const HASH_CHUNKS_MAX = 65_536n;

/** The width under `range` for keys between `low` and `high`, so that a chunk holds about CHUNK_ROWS. */
export function rangeWidth(keys: { low: bigint; high: bigint; rows: bigint }): bigint {
  const span = keys.high - keys.low + 1n;
  if (keys.rows <= CHUNK_ROWS || span <= 0n)
    return atMostInt8(span > CHUNK_ROWS ? span : CHUNK_ROWS);
  const width = (span * CHUNK_ROWS) / keys.rows;
  return atMostInt8(width < 1n ? 1n : width);
}

/** The number of chunks under `hash`: a power of two. */
export function hashChunks(rows: bigint): bigint {
  let chunks = 1n;
  while (chunks * CHUNK_ROWS < rows && chunks < HASH_CHUNKS_MAX) chunks *= 2n;
  return chunks;
}

function atMostInt8(value: bigint): bigint {
  return value > INT8_MAX ? INT8_MAX : value;
}
