import { chunkOfInteger, chunkOfText } from '#src/core/chunk.ts';
import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { quoteLiteral } from '#src/core/table.ts';
import type { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { columnOffsets, nextColumn } from '#src/wire/postgres/pgoutput.ts';

import type { FollowedTable } from './followed-table.ts';

/** Marks that are known to be in the ledger; beyond this many they are forgotten and written again. */
const KNOWN_MAX = 200_000;

/**
 * Which chunks the changes of a target transaction touch, as statements for that transaction. A chunk
 * that is marked already costs nothing, until a fence: what comes after it must be marked anew, because
 * the verification that reads at the fence removes older marks.
 */
export class DirtyMarks {
  readonly #shadowId: string;
  readonly #known = new Map<number, Set<bigint>>();
  #knownSize = 0;
  #chunks = new Map<number, Set<bigint>>();
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
          if (before >= 0) this.#mark(table, bytes, before);
          if (after >= 0) this.#mark(table, bytes, after);
        }
      } else {
        for (const changes of step.tables.values()) {
          for (const { bytes, at } of changes.entries()) this.#mark(changes.table, bytes, at);
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
    const chunks: bigint[] = [];
    for (const [oid, marked] of this.#chunks) {
      for (const chunk of marked) {
        oids.push(oid);
        chunks.push(chunk);
      }
    }
    if (oids.length > 0) {
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
    if (this.#knownSize > KNOWN_MAX) this.forget();
    for (const [oid, marked] of this.#chunks) {
      const known = this.#known.get(oid) ?? new Set<bigint>();
      this.#known.set(oid, known);
      for (const chunk of marked) known.add(chunk);
      this.#knownSize += marked.size;
    }
    this.#chunks = new Map();
    this.#tables = new Set();
  }

  /** A fence: marks in the ledger may be removed from now on. */
  forget(): void {
    this.#known.clear();
    this.#knownSize = 0;
  }

  #mark(table: FollowedTable, bytes: Buffer, at: number): void {
    const chunk = chunkOfTuple(table, bytes, at);
    if (this.#known.get(table.oid)?.has(chunk) === true) return;
    const marked = this.#chunks.get(table.oid);
    if (marked === undefined) this.#chunks.set(table.oid, new Set([chunk]));
    else marked.add(chunk);
  }
}

function chunkOfTuple(table: FollowedTable, bytes: Buffer, at: number): bigint {
  const { chunking, leadingIndex } = table;
  if (chunking.strategy === 'whole') return chunkOfText(chunking, '');
  const [offset] = columnOffsets(bytes, at, [leadingIndex]);
  const start = (offset ?? 0) + 5;
  const end = nextColumn(bytes, offset ?? 0);
  const isBinary = table.format === 'binary';
  if (isBinary && chunking.strategy === 'range') {
    return chunkOfInteger(chunking, readInteger(bytes, start, end));
  }
  if (isBinary && table.isLeadingUuid) return chunkOfText(chunking, uuidText(bytes, start));
  return chunkOfText(chunking, bytes.subarray(start, end));
}

function readInteger(bytes: Buffer, start: number, end: number): bigint {
  if (end - start === 8) return bytes.readBigInt64BE(start);
  return BigInt(end - start === 4 ? bytes.readInt32BE(start) : bytes.readInt16BE(start));
}

function uuidText(bytes: Buffer, start: number): string {
  const hex = bytes.toString('hex', start, start + 16);
  return [8, 12, 16, 20, 32].map((end, i) => hex.slice([0, 8, 12, 16, 20][i], end)).join('-');
}
