import { chunkOfText } from '#src/core/chunk.ts';
import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { quoteLiteral } from '#src/core/table.ts';
import type { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { nextColumn } from '#src/wire/postgres/pgoutput.ts';

import type { FollowedTable } from './followed-table.ts';

/** Marks that are known to be in the ledger; beyond this many they are forgotten and written again. */
const KNOWN_MAX = 200_000;
/** A table of which one transaction touches more chunks is marked as a whole: it is to be read whole. */
const TABLE_CHUNKS_MAX = 50_000;

/** Chunk numbers are below 2^53 unless chunks are tiny (a width below 2^11), so a number holds them. */
type Chunk = number;

/**
 * Which chunks the changes of a target transaction touch, as statements for that transaction. A chunk
 * that is marked already costs nothing, until a fence: what comes after it must be marked anew, because
 * the verification that reads at the fence removes older marks.
 */
export class DirtyMarks {
  readonly #shadowId: string;
  readonly #known = new Map<number, Set<Chunk>>();
  #knownCount = 0;
  #chunks = new Map<number, Set<Chunk>>();
  #tables = new Set<number>();

  constructor(shadowId: string) {
    this.#shadowId = shadowId;
  }

  /** Note what a batch changes. */
  add(batch: ChangeBatch<FollowedTable>): void {
    for (const step of batch.steps) {
      if (step.kind === 'truncate') {
        for (const table of step.tables) this.#tables.add(table.oid);
      } else if (step.kind === 'exact') {
        for (const { table, bytes, before, after } of step.changes) {
          const marks = this.#marksOf(table);
          if (before >= 0) marks(bytes, before);
          if (after >= 0) marks(bytes, after);
        }
      } else {
        for (const changes of step.tables.values()) {
          const mark = this.#marksOf(changes.table);
          for (const { bytes, at } of changes.entries()) mark(bytes, at);
        }
      }
    }
  }

  /** The statements for the transaction that ends at `endLsn`. */
  statements(endLsn: Lsn): readonly string[] {
    const id = quoteLiteral(this.#shadowId);
    const position = `'${formatLsn(endLsn)}'::pg_lsn`;
    const statements: string[] = [];
    const oids: number[] = [];
    const chunks: Chunk[] = [];
    for (const [oid, marked] of this.#chunks) {
      if (this.#tables.has(oid)) continue;
      for (const chunk of marked) {
        oids.push(oid);
        chunks.push(chunk);
      }
    }
    if (chunks.length > 0) {
      statements.push(
        `INSERT INTO understudy.dirty_chunk (shadow_id, source_oid, chunk, lsn)
         SELECT ${id}, u.o, u.c, ${position}
           FROM unnest('{${oids.join(',')}}'::bigint[], '{${chunks.join(',')}}'::bigint[]) AS u (o, c)
         ON CONFLICT (shadow_id, source_oid, chunk) DO UPDATE SET lsn = excluded.lsn`,
      );
    }
    if (this.#tables.size > 0) {
      statements.push(
        `INSERT INTO understudy.dirty_table (shadow_id, source_oid, lsn)
         SELECT ${id}, u.o, ${position} FROM unnest('{${[...this.#tables].join(',')}}'::bigint[]) AS u (o)
         ON CONFLICT (shadow_id, source_oid) DO UPDATE SET lsn = excluded.lsn`,
      );
    }
    return statements;
  }

  /** The transaction with the statements has committed. */
  committed(): void {
    if (this.#knownCount > KNOWN_MAX) this.forget();
    for (const [oid, marked] of this.#chunks) {
      if (this.#tables.has(oid)) continue;
      const known = this.#known.get(oid) ?? new Set<Chunk>();
      this.#known.set(oid, known);
      for (const chunk of marked) known.add(chunk);
      this.#knownCount += marked.size;
    }
    this.#chunks = new Map();
    this.#tables = new Set();
  }

  /** A fence: marks in the ledger may be removed from now on. */
  forget(): void {
    this.#known.clear();
    this.#knownCount = 0;
  }

  /** What marks the row of a tuple of this table. */
  #marksOf(table: FollowedTable): (bytes: Buffer, at: number) => void {
    const chunkOf = chunkFunction(table);
    const known = this.#known.get(table.oid);
    const marked = this.#chunks.get(table.oid) ?? new Set<Chunk>();
    this.#chunks.set(table.oid, marked);
    return (bytes, at) => {
      const chunk = chunkOf(bytes, at);
      if (known?.has(chunk) === true || this.#tables.has(table.oid)) return;
      marked.add(chunk);
      if (marked.size > TABLE_CHUNKS_MAX || !Number.isSafeInteger(chunk)) {
        this.#tables.add(table.oid);
        marked.clear();
      }
    };
  }
}

/** The chunk of a row, from a tuple that holds its key: the number that `chunkExpression` gives in SQL. */
function chunkFunction(table: FollowedTable): (bytes: Buffer, at: number) => Chunk {
  const { chunking, leadingIndex } = table;
  if (chunking.strategy === 'whole') return () => 0;
  const isBinary = table.format === 'binary';
  const width = Number(chunking.width);
  return (bytes, at) => {
    let offset = at + 2;
    for (let i = 0; i < leadingIndex; i++) offset = nextColumn(bytes, offset);
    const start = offset + 5;
    const end = nextColumn(bytes, offset);
    if (isBinary && chunking.strategy === 'range') {
      return chunkOfBinaryInteger(bytes, { start, end }, width);
    }
    if (chunking.strategy === 'range') {
      const key = Number(bytes.toString('latin1', start, end));
      if (Number.isSafeInteger(key)) return Math.floor(key / width);
    }
    const key =
      isBinary && table.isLeadingUuid ? uuidText(bytes, start) : bytes.subarray(start, end);
    return Number(chunkOfText(chunking, key));
  };
}

/**
 * `floor(key / width)`, exact without a bigint a row: a width is a power of two, so both halves of an
 * int8 divide without rounding as long as the result is below 2^53.
 */
function chunkOfBinaryInteger(
  bytes: Buffer,
  { start, end }: { readonly start: number; readonly end: number },
  width: number,
): Chunk {
  if (end - start === 2) return Math.floor(bytes.readInt16BE(start) / width);
  if (end - start === 4) return Math.floor(bytes.readInt32BE(start) / width);
  const high = bytes.readInt32BE(start);
  const low = bytes.readUInt32BE(start + 4);
  if (width >= 2 ** 32) return Math.floor(high / (width / 2 ** 32));
  return high * (2 ** 32 / width) + Math.floor(low / width);
}

function uuidText(bytes: Buffer, start: number): string {
  const hex = bytes.toString('hex', start, start + 16);
  return [8, 12, 16, 20, 32].map((end, i) => hex.slice([0, 8, 12, 16, 20][i], end)).join('-');
}
