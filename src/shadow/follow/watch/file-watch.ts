import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import type { RelationShape } from '#src/core/schema-shape.ts';
import { quoteTable } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/** A table that looks as before and has another file. */
type Pending = { readonly shape: RelationShape; readonly at: Lsn };

export type FileWatchDeps = {
  readonly target: Session;
  readonly shadowId: string;
  readonly appliedLsn: () => Lsn;
  readonly report: Report;
};

/**
 * What becomes of tables that have another file and the same shape. VACUUM FULL, CLUSTER and pg_repack do
 * that, and leave every value as it was; so does TRUNCATE, which the stream carries; so does a rewrite to
 * the same type, which nothing tells but an event trigger. So without the triggers such a table is marked
 * to be verified whole, unless a TRUNCATE has marked it since; judged once the stream has come that far.
 */
export class FileWatch {
  readonly #deps: FileWatchDeps;
  readonly #pending = new Map<number, Pending>();

  constructor(deps: FileWatchDeps) {
    this.#deps = deps;
  }

  changed(shape: RelationShape, at: Lsn): void {
    this.#pending.set(shape.oid, { shape, at });
  }

  async judge(areTriggersOn: boolean): Promise<void> {
    for (const [oid, { shape, at }] of this.#pending) {
      if (this.#deps.appliedLsn() < at) continue;
      this.#pending.delete(oid);
      const isMarked = !areTriggersOn && (await this.#mark(shape, at));
      await this.#recordFile(shape);
      if (!isMarked) continue;
      this.#deps.report({
        type: 'notice',
        level: 'warn',
        message:
          `table ${quoteTable(shape)} has another file on the source (VACUUM FULL, CLUSTER, or a rewrite ` +
          'that kept its columns); the next verification reads it whole',
      });
    }
  }

  /** Mark the table if it follows; whether no TRUNCATE had marked it since its file was last seen. */
  async #mark({ oid }: RelationShape, at: Lsn): Promise<boolean> {
    const { target, shadowId } = this.#deps;
    const [known] = await target.query(
      `SELECT EXISTS (SELECT FROM understudy.dirty_table m
                       WHERE m.shadow_id = $1 AND m.source_oid = $2
                         AND m.lsn > (SELECT max(v.lsn) FROM understudy.schema_version v
                                       WHERE v.shadow_id = $1 AND v.source_oid = $2)) AS is_marked`,
      [shadowId, oid],
    );
    // Also where there is a mark: a verification that began before may be about to remove it.
    const marked = await target.execute(
      `INSERT INTO understudy.dirty_table AS d (shadow_id, source_oid, lsn)
       SELECT r.shadow_id, r.source_oid, $3::pg_lsn FROM understudy.relation r
        WHERE r.shadow_id = $1 AND r.source_oid = $2 AND r.state = 'copied'
       ON CONFLICT (shadow_id, source_oid) DO UPDATE SET lsn = greatest(d.lsn, excluded.lsn)`,
      [shadowId, oid, formatLsn(at)],
    );
    return marked > 0 && known?.['is_marked'] !== 't';
  }

  /** It is no version of its own: a table that is truncated each minute would have many. */
  async #recordFile({ oid, fileNode }: RelationShape): Promise<void> {
    const { target, shadowId } = this.#deps;
    await target.execute(
      `UPDATE understudy.schema_version v SET shape = jsonb_set(v.shape, '{fileNode}', $3::text::jsonb)
        WHERE v.shadow_id = $1 AND v.source_oid = $2 AND v.shape IS NOT NULL
          AND v.version = (SELECT max(w.version) FROM understudy.schema_version w
                            WHERE w.shadow_id = $1 AND w.source_oid = $2)`,
      [shadowId, oid, String(fileNode)],
    );
  }
}
