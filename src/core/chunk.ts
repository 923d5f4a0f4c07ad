import { assert, assertNever } from '#src/lib/assert.ts';

import { type Column, quoteIdentifier } from './table.ts';
import { hashText } from './text-hash.ts';

/**
 * How a table is cut into chunks. A chunk's number depends on the leading key column only, and is
 * computed twice: here, by the applier that marks chunks dirty, and in SQL, by the verification that
 * reads them. A wrong number would hide a change from the next verification.
 */
export type Chunking = {
  readonly strategy: 'range' | 'hash' | 'whole';
  /** The leading key column; undefined exactly when the table is read whole. */
  readonly column: string | undefined;
  /** A power of two: key values in a chunk (range), number of chunks (hash); 1 when read whole. */
  readonly width: bigint;
};

export type ChunkStrategy = Pick<Chunking, 'strategy' | 'column'>;

export const WHOLE: Chunking = { strategy: 'whole', column: undefined, width: 1n };

const RANGE_TYPES = new Set(['int2', 'int4', 'int8']);
// Not bpchar: its cast to text drops the padding that the stream keeps.
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

/** The chunk of a key value under `range`; rounds down, below zero too. */
export function chunkOfInteger(chunking: Chunking, key: bigint): bigint {
  return key >> shiftOf(chunking);
}

/** The chunk of a row by the text (or its UTF-8 bytes) of its leading key value, under any strategy. */
export function chunkOfText(chunking: Chunking, key: string | Uint8Array): bigint {
  switch (chunking.strategy) {
    case 'whole':
      return 0n;
    case 'range':
      return chunkOfInteger(chunking, BigInt(typeof key === 'string' ? key : textOf(key)));
    case 'hash': {
      const bytes = typeof key === 'string' ? Buffer.from(key) : key;
      return BigInt(hashText(bytes)) & (chunking.width - 1n);
    }
    default:
      return assertNever(chunking.strategy);
  }
}

/** The same number as an SQL expression of type int8 over the row `alias`. */
export function chunkExpression(chunking: Chunking, alias: string): string {
  const column = `${alias}.${quoteIdentifier(chunking.column ?? '')}`;
  switch (chunking.strategy) {
    case 'whole':
      return '0::int8';
    case 'range':
      return `(${column}::int8 >> ${shiftOf(chunking)})`;
    case 'hash':
      return `(hashtextextended(${column}::text COLLATE "C", 0) & ${chunking.width - 1n})`;
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
    return `${chunkExpression(chunking, alias)} BETWEEN ${span.from} AND ${span.to}`;
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

/** Rows that a chunk should hold: about 10 ms of hashing, little to read again for one change. */
const CHUNK_ROWS = 20_000n;
const HASH_CHUNKS_MAX = 65_536n;
const RANGE_WIDTH_MAX = 2n ** 62n;

/** What is known of the keys of a table under `range`. */
export type KeySpread = {
  readonly low: bigint;
  readonly high: bigint;
  readonly rows: bigint;
  /** Between which keys nearly all rows are, if that is known: one stray key must not widen every chunk. */
  readonly middle?: { readonly low: bigint; readonly high: bigint } | undefined;
};

/** Chunks that keys outside of the middle may make, each with a row or two; of a table of fewer rows, all. */
const STRAY_CHUNKS_MAX = 65_536n;
const STRAY_ROWS = 5_000_000n;

/** The width under `range`, so that a chunk holds about CHUNK_ROWS. */
export function rangeWidth({ low, high, rows, middle = { low, high } }: KeySpread): bigint {
  // How sparse the keys are decides, not how many there are: a small table will grow as it has so far.
  const wanted = rows <= 0n ? CHUNK_ROWS : ((middle.high - middle.low + 1n) * CHUNK_ROWS) / rows;
  const least = (high - low + 1n) / (STRAY_CHUNKS_MAX + (4n * rows) / CHUNK_ROWS);
  // A few stray keys are harmless however far they are; of a very large table they are not a few.
  const width = rows > STRAY_ROWS && least > wanted ? least : wanted;
  return powerOfTwo(width > CHUNK_ROWS ? width : CHUNK_ROWS, RANGE_WIDTH_MAX);
}

/** The number of chunks under `hash`. */
export function hashChunks(rows: bigint): bigint {
  return powerOfTwo(rows / CHUNK_ROWS, HASH_CHUNKS_MAX);
}

/** The smallest power of two that is not below `value`, and at most `max`. */
function powerOfTwo(value: bigint, max: bigint): bigint {
  let power = 1n;
  while (power < value && power < max) power *= 2n;
  return power;
}

function shiftOf(chunking: Chunking): bigint {
  assert(chunking.strategy === 'range', 'only a range chunking has a shift');
  const shift = BigInt(chunking.width.toString(2).length - 1);
  assert(1n << shift === chunking.width, 'a chunk width is a power of two');
  return shift;
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
}
