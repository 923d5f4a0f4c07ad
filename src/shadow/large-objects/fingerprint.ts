import type { Session } from '#src/db/postgres/connection/session.ts';

/**
 * A text that is another one after any change of the database's large objects. Logical decoding does not
 * carry pg_largeobject, so this is all that tells of a change without reading every object.
 *
 * The statistics of both catalogs count every row version that is written or removed. Whoever changes
 * something reports it when the transaction has ended: on 15 and newer at the latest after ten idle
 * seconds, on 14 with that session's next transaction or its end. A reset of the database's statistics
 * shows in its time; a crash, after which they begin again, in that of the background writer. Catalogs
 * that are small are read themselves, as far as the role may: each row version has its writer's xmin.
 *
 * A fingerprint that was read before a snapshot covers it: what is not in the snapshot ends, and is
 * counted, later. It errs on the safe side: rolled back changes, a restart after a crash, a VACUUM FULL
 * and counts that arrived late look like changes.
 */
export async function readFingerprint(source: Session): Promise<string> {
  const [may] = await source.query(
    `SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT') AS data,
            pg_catalog.pg_relation_size('pg_catalog.pg_largeobject') < ${SMALL_BYTES} AS is_data_small,
            pg_catalog.pg_relation_size('pg_catalog.pg_largeobject_metadata') < ${SMALL_BYTES} AS is_small`,
  );
  const [row] = await source.query(
    `SELECT concat_ws(' ', ${CATALOGS.flatMap(countersOf).join(', ')},
              pg_catalog.pg_stat_get_db_stat_reset_time(d.oid),
              pg_catalog.pg_stat_get_bgwriter_stat_reset_time(),
              ${versions('pg_largeobject_metadata', may?.['is_small'] === 't')},
              ${versions('pg_largeobject', may?.['data'] === 't' && may['is_data_small'] === 't')})
              AS fingerprint
       FROM pg_catalog.pg_database d WHERE d.datname = current_database()`,
  );
  return row?.['fingerprint'] ?? '';
}

const SMALL_BYTES = 8 * 1024 * 1024;
const CATALOGS = ['pg_largeobject', 'pg_largeobject_metadata'];

/** The row versions that can be seen, by their number and who wrote them. */
function versions(catalog: string, isRead: boolean): string {
  if (!isRead) return 'NULL';
  return `(SELECT concat_ws('/', count(*), sum(xmin::text::int8)) FROM pg_catalog.${catalog})`;
}

function countersOf(catalog: string): readonly string[] {
  const oid = `'pg_catalog.${catalog}'::regclass`;
  const counters = ['inserted', 'updated', 'deleted'].map(
    (what) => `pg_catalog.pg_stat_get_tuples_${what}(${oid})`,
  );
  return [...counters, `pg_catalog.pg_relation_filenode(${oid})`];
}

/** Whether the source counts at all; without it only a comparison tells. */
export async function areChangesCounted(source: Session): Promise<boolean> {
  const [row] = await source.query('SHOW track_counts');
  return row?.['track_counts'] === 'on';
}
