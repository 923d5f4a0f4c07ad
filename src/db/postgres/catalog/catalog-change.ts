import type { Session } from '#src/db/postgres/connection/session.ts';

/**
 * Whether any catalog row that says what a table is was written since a transaction id that an earlier
 * call returned: by the rows' own xmin, without reading what they say. Temporary tables, which a busy
 * application makes all the time, do not count; nor does what VACUUM and ANALYZE write in place.
 *
 * A row that was deleted has no xmin: tables that are gone, and indexes of `oids`, are counted instead.
 */
const CHANGE_SQL = `
WITH lasting AS MATERIALIZED (
  SELECT $2::xid AS since, pg_catalog.age($2::xid) AS age)
SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid AS horizon,
       (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[]))
       || ' ' || (SELECT count(*) FROM pg_catalog.pg_index x WHERE x.indrelid = ANY ($1::oid[]))
         AS counts,
       $2::xid IS NULL
       OR EXISTS (SELECT FROM pg_catalog.pg_class c, lasting l
                   WHERE pg_catalog.age(c.xmin) <= l.age AND c.relkind IN ('r', 'p', 'c')
                     AND c.relpersistence <> 't')
       OR EXISTS (SELECT FROM pg_catalog.pg_attribute a, lasting l
                   WHERE pg_catalog.age(a.xmin) <= l.age AND EXISTS (
                     SELECT FROM pg_catalog.pg_class c
                      WHERE c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'c')
                        AND c.relpersistence <> 't'))
       OR EXISTS (SELECT FROM pg_catalog.pg_index x, lasting l
                   WHERE pg_catalog.age(x.xmin) <= l.age AND EXISTS (
                     SELECT FROM pg_catalog.pg_class c
                      WHERE c.oid = x.indrelid AND c.relkind IN ('r', 'p')
                        AND c.relpersistence <> 't'))
       OR EXISTS (SELECT FROM pg_catalog.pg_inherits i, lasting l
                   WHERE pg_catalog.age(i.xmin) <= l.age)
       OR EXISTS (SELECT FROM pg_catalog.pg_enum e, lasting l
                   WHERE pg_catalog.age(e.xmin) <= l.age)
       OR EXISTS (SELECT FROM pg_catalog.pg_namespace n, lasting l
                   WHERE pg_catalog.age(n.xmin) <= l.age AND n.nspname !~ '^pg_') AS is_newer`;

/** Remembers how far the catalog was looked at. */
export class CatalogChange {
  #horizon: string | null = null;
  #counts = '';

  /** Whether anything about tables may be other than at the last call; true at the first. */
  async check(source: Session, oids: readonly number[]): Promise<boolean> {
    const [row] = await source.query(CHANGE_SQL, [oids.map(String), this.#horizon]);
    const counts = row?.['counts'] ?? '';
    const hasChanged = row?.['is_newer'] === 't' || counts !== this.#counts;
    this.#counts = counts;
    this.#horizon = row?.['horizon'] ?? null;
    return hasChanged;
  }
}
