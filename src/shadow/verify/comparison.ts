import type { Chunking } from '#src/core/chunk.ts';
import { chunkCondition, chunkExpression } from '#src/core/chunk.ts';
import type { Table } from '#src/core/table.ts';
import type { RowHashPlan } from '#src/db/postgres/row-hash/row-hash-plan.ts';

/** One table, and how it is cut and hashed. */
export type PreparedTable = {
  readonly table: Table;
  readonly chunking: Chunking;
  readonly hash: RowHashPlan;
  /** Whether it is made of the same columns on both sides, so that rows can be brought over. */
  readonly isSameShape: boolean;
  /** Whether the applier marks the chunks that it changes, under this very plan. */
  readonly isMarked: boolean;
};

/** Which of its chunks are to be read. */
export type TableComparison = PreparedTable & {
  /** Ascending; undefined for all of them. */
  readonly chunks: readonly bigint[] | undefined;
};

/** Conditions in one statement; the planner takes each as an index range of its own. */
const SPANS_MAX = 50;

/**
 * The rows of `chunks` as conditions over the row `alias`: one for each statement to run. Neighbouring
 * chunks are one span.
 */
export function chunkConditions(
  chunking: Chunking,
  alias: string,
  chunks: readonly bigint[] | undefined,
): readonly string[] {
  if (chunks === undefined || chunking.strategy === 'whole') return ['true'];
  if (chunking.strategy === 'hash') {
    // No index serves it, so the table is read once, whatever the number of chunks.
    return [`${chunkExpression(chunking, alias)} = ANY ('{${chunks.join(',')}}'::int8[])`];
  }
  const spans: { from: bigint; to: bigint }[] = [];
  for (const chunk of chunks) {
    const last = spans.at(-1);
    if (last !== undefined && last.to + 1n === chunk) last.to = chunk;
    else spans.push({ from: chunk, to: chunk });
  }
  const conditions = spans.map((span) => `(${chunkCondition(chunking, alias, span)})`);
  const statements: string[] = [];
  for (let at = 0; at < conditions.length; at += SPANS_MAX) {
    statements.push(conditions.slice(at, at + SPANS_MAX).join(' OR '));
  }
  return statements;
}
