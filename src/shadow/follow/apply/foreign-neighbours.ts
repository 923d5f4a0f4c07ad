import type { Session } from '#src/db/postgres/connection/session.ts';

/**
 * The tables of a shadow whose foreign keys span one that has stopped: each keeps its own rows exact, but
 * what a key promises between the two does not hold until it follows again (ADR 0009). Sorted names.
 */
export async function readForeignNeighbours(
  target: Session,
  shadowId: string,
  sourceOid: number,
): Promise<readonly string[]> {
  const rows = await target.query(
    `WITH relations AS (
       SELECT source_oid, schema_name, table_name,
              to_regclass(format('%I.%I', schema_name, table_name))::oid AS oid
         FROM understudy.relation WHERE shadow_id = $1)
     SELECT DISTINCT format('%s.%s', other.schema_name, other.table_name) AS name
       FROM relations mine
       JOIN pg_catalog.pg_constraint k ON k.contype = 'f' AND mine.oid IN (k.conrelid, k.confrelid)
       JOIN relations other ON other.oid IN (k.conrelid, k.confrelid) AND other.oid <> mine.oid
      WHERE mine.source_oid = $2 ORDER BY 1`,
    [shadowId, sourceOid],
  );
  return rows.map((row) => row['name'] ?? '');
}
