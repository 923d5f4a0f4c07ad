import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { quoteLiteral } from '#src/core/table.ts';

/**
 * Whose progress an apply session keeps: a row of the ledger, changed in the transaction whose rows it is about.
 * A replication origin's would not do (ADR 0013): it moves when a transaction fails, too.
 */
export type ProgressKind =
  | { readonly kind: 'shadow' }
  /** Of a lane, which applies one table. */
  | { readonly kind: 'relation'; readonly sourceOid: number };

/** What a check of ours fails with. */
export const CHECK_FAILED = '22012'; // division_by_zero

/** The statements that make an apply transaction ours, and what it applied known (I3, trap 20). */
export class ProgressStatements {
  readonly #id: string;
  readonly #epoch: bigint;
  readonly #kind: ProgressKind;

  constructor(shadowId: string, epoch: bigint, kind: ProgressKind) {
    this.#id = quoteLiteral(shadowId);
    this.#epoch = epoch;
    this.#kind = kind;
  }

  /** Fails with CHECK_FAILED when there is a newer runner, and keeps one from beginning. */
  get lease(): string {
    return present(
      `SELECT FROM understudy.lease WHERE shadow_id = ${this.#id} AND epoch = ${this.#epoch} FOR SHARE`,
    );
  }

  /**
   * Everything up to `to` is applied. Fails with CHECK_FAILED unless the progress is `from`: what an earlier
   * connection of ours had sent, and of which it never heard, was committed since. Waits for one that is
   * under way.
   */
  advance(from: Lsn, to: Lsn): string {
    const [known, next] = [from, to].map((position) => `'${formatLsn(position)}'::pg_lsn`);
    const update =
      this.#kind.kind === 'shadow'
        ? `UPDATE understudy.progress SET applied_lsn = ${next} WHERE shadow_id = ${this.#id}`
        : `UPDATE understudy.relation SET applied_lsn = ${next} WHERE shadow_id = ${this.#id}
             AND source_oid = ${this.#kind.sourceOid} AND state = 'catching up'`;
    return `WITH u AS (${update} AND applied_lsn = ${known} RETURNING 1) ${present('SELECT FROM u')}`;
  }
}

/** A statement that fails with CHECK_FAILED unless `rows` yields exactly one row. */
function present(rows: string): string {
  return `SELECT 1 / (SELECT count(*) FROM (${rows}) AS r)::int4`;
}
