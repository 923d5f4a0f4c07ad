import { chunkExpression } from '#src/core/chunk.ts';
import { conjunction } from '#src/core/row-filter.ts';
import { quoteTable } from '#src/core/table.ts';
import { readCursor } from '#src/db/postgres/connection/cursor.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { rowHashExpression } from '#src/db/postgres/row-hash/row-hash.ts';

import { chunkConditions, type TableComparison } from './comparison.ts';
import type { Pair } from './pair.ts';

/** A chunk's rows in three numbers: as good as never the same for different rows, in whatever order. */
export type ChunkDigest = {
  readonly chunk: bigint;
  readonly rows: string;
  readonly hashXor: string;
  /** Of duplicate rows the xor is 0, the sum is not. */
  readonly hashSum: string;
};

export type ChunkOutcome = {
  /** Chunks that are the same on both sides, as the ledger keeps them. */
  readonly same: readonly ChunkDigest[];
  /** Ascending. */
  readonly different: readonly bigint[];
  /** Rows read on the source. */
  readonly rows: bigint;
};

const BATCH_CHUNKS = 5_000;

/**
 * Compare the chunks of a table: one grouped scan a side, both at the same time. A row filter is for the
 * source only: on the target a row that does not belong there has to be seen.
 */
export async function compareChunks(
  pair: Pair,
  comparison: TableComparison,
): Promise<ChunkOutcome> {
  const same: ChunkDigest[] = [];
  const different: bigint[] = [];
  let rows = 0n;
  for (const condition of chunkConditions(comparison.chunking, 't', comparison.chunks)) {
    const ofDataset = conjunction(condition, comparison.table.rowFilter);
    await using source = new Ascending(readDigests(pair.source, digestSql(comparison, ofDataset)));
    await using target = new Ascending(readDigests(pair.target, digestSql(comparison, condition)));
    await Promise.all([source.advance(), target.advance()]);
    for (;;) {
      const [ours, theirs] = [source.current, target.current];
      if (ours === undefined && theirs === undefined) break;
      const chunk = least(ours?.chunk, theirs?.chunk);
      const isOurs = ours?.chunk === chunk;
      const isTheirs = theirs?.chunk === chunk;
      if (isOurs) rows += BigInt(ours.rows);
      if (isOurs && isTheirs && isSame(ours, theirs)) same.push(ours);
      else different.push(chunk);
      await Promise.all([isOurs && source.advance(), isTheirs && target.advance()]);
    }
  }
  return { same, different, rows };
}

/** The digests of a table's chunks, ascending, of the rows for which `condition` holds. */
export function digestSql({ table, chunking, hash }: TableComparison, condition: string): string {
  // OFFSET 0 keeps the planner from computing the hash once for each aggregate. ONLY: rows of
  // partitions and children are compared as their own tables.
  return `SELECT chunk, count(*) AS rows, bit_xor(hash) AS hash_xor, sum(hash) AS hash_sum
     FROM (SELECT ${chunkExpression(chunking, 't')} AS chunk,
                  ${rowHashExpression(hash.compared, 't')} AS hash
             FROM ONLY ${quoteTable(table)} AS t WHERE ${condition} OFFSET 0) AS r
    GROUP BY chunk ORDER BY chunk`;
}

export async function* readDigests(session: Session, sql: string): AsyncGenerator<ChunkDigest> {
  for await (const rows of readCursor(session, { name: 'digests', sql, batchRows: BATCH_CHUNKS })) {
    for (const row of rows) {
      yield {
        chunk: BigInt(row['chunk'] ?? '0'),
        rows: row['rows'] ?? '',
        hashXor: row['hash_xor'] ?? '',
        hashSum: row['hash_sum'] ?? '',
      };
    }
  }
}

export function isSame(ours: ChunkDigest, theirs: ChunkDigest): boolean {
  return (
    ours.rows === theirs.rows && ours.hashXor === theirs.hashXor && ours.hashSum === theirs.hashSum
  );
}

function least(a: bigint | undefined, b: bigint | undefined): bigint {
  if (a === undefined) return b ?? 0n;
  return b === undefined || a < b ? a : b;
}

/** One side of a merge: what it stands at, and the step to the next. */
export class Ascending<T> implements AsyncDisposable {
  current: T | undefined;
  readonly #items: AsyncGenerator<T>;

  constructor(items: AsyncGenerator<T>) {
    this.#items = items;
  }

  async advance(): Promise<void> {
    const next = await this.#items.next();
    this.current = next.done === true ? undefined : next.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#items.return(undefined);
  }
}
