import type { Session } from '#src/db/postgres/connection/session.ts';

/**
 * Types whose output lists parts in the order of their bytes: the keys of a jsonb object, the words of a
 * tsvector. In another encoding the same value is written in another order. A base type that is not
 * built in, such as hstore, may do so, too; of those only citext and ltree are known not to.
 */
const BYTE_ORDERED_SQL = `
WITH RECURSIVE part (wanted, oid) AS (
  SELECT oid, oid FROM pg_catalog.pg_type WHERE oid = ANY ($1::oid[])
  UNION
  SELECT p.wanted, inner_oid
    FROM part p
    JOIN pg_catalog.pg_type t ON t.oid = p.oid
   CROSS JOIN LATERAL (
      SELECT t.typbasetype UNION ALL SELECT t.typelem
      UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
                 WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) AS i (inner_oid)
   WHERE inner_oid <> 0
)
SELECT DISTINCT p.wanted
  FROM part p
  JOIN pg_catalog.pg_type t ON t.oid = p.oid
 WHERE t.typtype = 'b' AND t.typelem = 0
   AND CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname IN ('jsonb', 'tsvector')
            ELSE t.typname NOT IN ('citext', 'ltree') END`;

/** Which of these types (by OID) have one text in one encoding, and may have another in another. */
export async function readByteOrderedTypes(
  session: Session,
  typeOids: ReadonlySet<number>,
): Promise<ReadonlySet<number>> {
  const rows = await session.query(BYTE_ORDERED_SQL, [[...typeOids].map(String)]);
  return new Set(rows.map((row) => Number(row['wanted'])));
}
