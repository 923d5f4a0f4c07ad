import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { quoteLiteral } from '#src/core/table.ts';

/** Where progress is kept: see `ledger-schema.ts`. */
export type ProgressKind =
  | { readonly kind: 'origin' }
  | { readonly kind: 'table' }
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
   * Fails with CHECK_FAILED when the progress is past `known`: what an earlier connection of ours had sent,
   * and of which it never heard, was committed since. Waits for one that is under way. Only one session can
   * have an origin, so with that there is nothing to ask.
   */
  turn(known: Lsn): string | undefined {
    if (this.#kind.kind === 'origin') return undefined;
    const row =
      this.#kind.kind === 'table'
        ? 'understudy.progress WHERE'
        : `understudy.relation WHERE source_oid = ${this.#kind.sourceOid} AND`;
    return `SELECT 1 / CASE WHEN bool_or(r.applied_lsn > '${formatLsn(known)}'::pg_lsn) THEN 0 ELSE 1 END
              FROM (SELECT applied_lsn FROM ${row} shadow_id = ${this.#id} FOR UPDATE) AS r`;
  }

  /** Everything up to `endLsn` is applied. Fails with CHECK_FAILED when nobody keeps that any more. */
  advance(endLsn: Lsn, commitTimeMs: number): string {
    const position = `'${formatLsn(endLsn)}'::pg_lsn`;
    if (this.#kind.kind === 'origin') {
      const time = quoteLiteral(new Date(commitTimeMs).toISOString());
      return `SELECT pg_catalog.pg_replication_origin_xact_setup(${position}, ${time}::timestamptz)`;
    }
    const update =
      this.#kind.kind === 'table'
        ? `UPDATE understudy.progress SET applied_lsn = ${position} WHERE shadow_id = ${this.#id}`
        : `UPDATE understudy.relation SET applied_lsn = ${position} WHERE shadow_id = ${this.#id}
             AND source_oid = ${this.#kind.sourceOid} AND state = 'catching up'`;
    return `WITH u AS (${update} RETURNING 1) ${present('SELECT FROM u')}`;
  }
}

/** A statement that fails with CHECK_FAILED unless `rows` yields exactly one row. */
function present(rows: string): string {
  return `SELECT 1 / (SELECT count(*) FROM (${rows}) AS r)::int4`;
}
