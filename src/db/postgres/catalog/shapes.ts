import { relationShape, type RelationShape } from '#src/core/schema-shape.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/** Types below it are built in and never change. */
const FIRST_NORMAL_OID = 16_384;

/**
 * SQL expression: the shape (src/core/schema-shape.ts) of the row `c` of pg_class as json. It is also the
 * body of our event trigger's function, where any search_path that begins with pg_catalog is in force.
 *
 * The key is what `readTables` takes for the key: that of RelationGetReplicaIndex, and under FULL any
 * index that is unique over NOT NULL columns.
 */
export const SHAPE_OF_C = `pg_catalog.json_build_object(
  'oid', c.oid::int8, 'schema', (SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace), 'name', c.relname,
  'kind', c.relkind, 'persistence', c.relpersistence, 'fileNode', c.relfilenode::int8,
  'identity', c.relreplident,
  'partitionOf', (SELECT i.inhparent::int8 FROM pg_catalog.pg_inherits i
                   WHERE i.inhrelid = c.oid AND c.relispartition ORDER BY i.inhseqno LIMIT 1),
  'inherits', (SELECT coalesce(pg_catalog.json_agg(i.inhparent::int8 ORDER BY i.inhparent), '[]')
                 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid AND NOT c.relispartition),
  'partitions', (SELECT coalesce(pg_catalog.json_agg(i.inhrelid::int8 ORDER BY i.inhrelid), '[]')
                   FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'p'),
  'key', coalesce((
    SELECT (SELECT pg_catalog.json_agg(k.attnum ORDER BY k.attnum)
              FROM pg_catalog.unnest(x.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
             WHERE k.position <= x.indnkeyatts)
      FROM pg_catalog.pg_index x
     WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
       AND x.indpred IS NULL AND x.indexprs IS NULL
       AND CASE c.relreplident
             WHEN 'd' THEN x.indisprimary
             WHEN 'i' THEN x.indisreplident
             WHEN 'f' THEN NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute b
                WHERE b.attrelid = c.oid AND NOT b.attnotnull
                  AND b.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))
             ELSE false END
     ORDER BY x.indisprimary DESC, x.indnkeyatts, x.indexrelid
     LIMIT 1), '[]'),
  'columns', (
    SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
             'attnum', a.attnum, 'name', a.attname, 'typeOid', a.atttypid::int8,
             'typmod', a.atttypmod, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
             'isNotNull', a.attnotnull, 'generated', a.attgenerated, 'identity', a.attidentity,
             'hasMissing', a.atthasmissing) ORDER BY a.attnum), '[]')
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'types', (
    WITH RECURSIVE used (oid) AS (
      SELECT a.atttypid FROM pg_catalog.pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         AND a.atttypid >= ${FIRST_NORMAL_OID}
      UNION
      SELECT p.oid
        FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid
        CROSS JOIN LATERAL (
          SELECT t.typelem UNION ALL SELECT t.typbasetype
          UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
          UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid
          UNION ALL SELECT b.atttypid FROM pg_catalog.pg_attribute b
           WHERE t.typtype = 'c' AND b.attrelid = t.typrelid AND b.attnum > 0
             AND NOT b.attisdropped) AS p (oid)
       WHERE p.oid >= ${FIRST_NORMAL_OID})
    SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
             'oid', t.oid::int8, 'name', pg_catalog.format_type(t.oid, NULL),
             'labels', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                                 'oid', e.oid::int8, 'label', e.enumlabel)
                                 ORDER BY e.enumsortorder), '[]')
                          FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
             'attributes', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                                     'attnum', b.attnum, 'name', b.attname,
                                     'typeOid', b.atttypid::int8, 'typmod', b.atttypmod)
                                     ORDER BY b.attnum), '[]')
                              FROM pg_catalog.pg_attribute b
                             WHERE t.typtype = 'c' AND b.attrelid = t.typrelid AND b.attnum > 0
                               AND NOT b.attisdropped)) ORDER BY t.oid), '[]')
      FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid
     WHERE t.typtype IN ('e', 'c')))`;

/** The shapes of these tables as they are now; one that does not exist is absent. */
export async function readShapes(
  session: Session,
  oids: readonly number[],
): Promise<ReadonlyMap<number, RelationShape>> {
  const rows = await session.query(
    `SELECT ${SHAPE_OF_C} AS shape FROM pg_catalog.pg_class c
      WHERE c.oid = ANY ($1::oid[]) AND c.relkind IN ('r', 'p')`,
    [oids.map(String)],
  );
  const shapes = rows.map((row) => relationShape.parse(JSON.parse(row['shape'] ?? '')));
  return new Map(shapes.map((shape) => [shape.oid, shape]));
}
