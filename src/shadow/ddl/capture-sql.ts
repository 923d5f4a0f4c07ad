import { quoteIdentifier, quoteLiteral } from '#src/core/table.ts';
import { SHAPE_OF_C } from '#src/db/postgres/catalog/shapes.ts';

/** Prefix of the messages; an empty one is a pad. */
export const DDL_PREFIX = 'understudy.ddl';

/** Relations in one message, so that none grows without bound. */
const RELATIONS_MAX = 200;

export type CaptureNames = {
  /** Qualified and quoted. */
  readonly function: string;
  readonly functionName: string;
  readonly triggers: readonly { readonly name: string; readonly event: string }[];
};

const SCHEMA = 'understudy';

export function captureNames(shadowId: string): CaptureNames {
  const functionName = `understudy_${shadowId}_ddl`;
  return {
    functionName,
    function: `${SCHEMA}.${quoteIdentifier(functionName)}`,
    triggers: [
      { name: `understudy_${shadowId}_end`, event: 'ddl_command_end' },
      { name: `understudy_${shadowId}_drop`, event: 'sql_drop' },
      { name: `understudy_${shadowId}_rewrite`, event: 'table_rewrite' },
    ],
  };
}

/**
 * Commands after which a table may have another shape. Anything else about a table (an index, a trigger,
 * a comment, a policy) is named without its shape.
 */
const SHAPING_TAGS = [
  'ALTER TABLE',
  'CREATE TABLE',
  'CREATE TABLE AS',
  'SELECT INTO',
  'ALTER SCHEMA',
  'ALTER TYPE',
  'ALTER DOMAIN',
];

/**
 * What `ddl_command_end` reports, with the table that each object belongs to, which is found by OID: a
 * trigger's own schema is NULL there (pain 23). GRANT and functions belong to no table.
 */
const COMMANDS_SQL = `
    SELECT d.command_tag AS tag, d.object_type AS type, d.object_identity AS identity, t.oid AS table_oid,
           d.command_tag IN (${SHAPING_TAGS.map(quoteLiteral).join(', ')}) AS is_shaping
      FROM pg_catalog.pg_event_trigger_ddl_commands() AS d
      CROSS JOIN LATERAL (
        SELECT d.objid WHERE d.classid = 'pg_catalog.pg_class'::regclass
        UNION ALL SELECT i.indrelid FROM pg_catalog.pg_index i
                   WHERE d.classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = d.objid
        UNION ALL SELECT g.tgrelid FROM pg_catalog.pg_trigger g
                   WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND g.oid = d.objid
        UNION ALL SELECT p.polrelid FROM pg_catalog.pg_policy p
                   WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND p.oid = d.objid
        UNION ALL SELECT r.ev_class FROM pg_catalog.pg_rewrite r
                   WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
        UNION ALL SELECT n.conrelid FROM pg_catalog.pg_constraint n
                   WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND n.oid = d.objid
        UNION ALL SELECT s.stxrelid FROM pg_catalog.pg_statistic_ext s
                   WHERE d.classid = 'pg_catalog.pg_statistic_ext'::regclass AND s.oid = d.objid
        UNION ALL SELECT c.oid FROM pg_catalog.pg_class c
                   WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
                     AND d.command_tag = 'ALTER SCHEMA' AND c.relnamespace = d.objid
        UNION ALL (
          WITH RECURSIVE dependent (classid, objid) AS (
            SELECT d.classid, d.objid WHERE d.classid = 'pg_catalog.pg_type'::regclass
            UNION ALL SELECT 'pg_catalog.pg_type'::regclass, c.reltype FROM pg_catalog.pg_class c
                       WHERE d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
                         AND c.relkind = 'c'
            UNION
            SELECT CASE WHEN c.relkind = 'c' THEN 'pg_catalog.pg_type'::regclass ELSE e.classid END,
                   CASE WHEN c.relkind = 'c' THEN c.reltype ELSE e.objid END
              FROM dependent x
              JOIN pg_catalog.pg_depend e
                ON e.refclassid = 'pg_catalog.pg_type'::regclass AND e.refobjid = x.objid
              LEFT JOIN pg_catalog.pg_class c
                ON e.classid = 'pg_catalog.pg_class'::regclass AND c.oid = e.objid
             WHERE x.classid = 'pg_catalog.pg_type'::regclass
               AND e.classid IN ('pg_catalog.pg_type'::regclass, 'pg_catalog.pg_class'::regclass))
          SELECT objid FROM dependent WHERE classid = 'pg_catalog.pg_class'::regclass)
      ) AS o (table_oid)
      JOIN pg_catalog.pg_class t ON t.oid = o.table_oid
     WHERE t.relkind IN ('r', 'p') AND t.relpersistence <> 't' AND NOT d.in_extension
       AND d.command_tag NOT LIKE '%PUBLICATION'`;

/**
 * A command on a partitioned table, or one with children, changes those as well and does not name them:
 * they are the ones with catalog rows that this transaction wrote, whose age is not positive.
 */
const CHANGED_CHILDREN_SQL = `
    WITH RECURSIVE tree (oid) AS (
      SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = ANY (shaped)
      UNION
      SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
    SELECT pg_catalog.array_agg(c.oid) INTO children
      FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid
     WHERE pg_catalog.age(c.xmin) <= 0
        OR EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND pg_catalog.age(a.xmin) <= 0)
        OR EXISTS (SELECT FROM pg_catalog.pg_index x
                    WHERE x.indrelid = c.oid AND pg_catalog.age(x.xmin) <= 0)`;

/**
 * The xid under which this subtransaction's records are in the WAL, once it has written one. No function
 * tells it, but each subtransaction that has an xid holds a lock on it; the youngest is the innermost.
 */
const OWN_XID_SQL = `
    SELECT l.transactionid::text::int8 INTO own_xid
      FROM pg_catalog.pg_locks l
     WHERE l.locktype = 'transactionid' AND l.pid = pg_catalog.pg_backend_pid()
       AND l.mode = 'ExclusiveLock'
     ORDER BY pg_catalog.age(l.transactionid) LIMIT 1`;

/**
 * The function behind all three triggers. Runs as its owner with a fixed search_path, since whoever runs
 * DDL may have no rights at all; reads catalogs only, takes no lock that the command has not.
 *
 * Whatever fails is caught, a cancellation included, and said by a message without details: the reader
 * then knows that it has to look for itself. The empty message after the payload keeps it ahead of the
 * next row (trap 9). The one before it gives this block, which is a subtransaction, its xid: the payload
 * names it, since pgoutput sends every message with the xid of the whole transaction, and one that was
 * streamed before a ROLLBACK TO SAVEPOINT could not be told from what was committed (trap 17).
 */
function captureFunctionSql(shadowId: string, name: string): string {
  const head = `'version', 1, 'shadow', ${quoteLiteral(shadowId)}`;
  const described = `${head}, 'xid', own_xid`;
  return `
CREATE OR REPLACE FUNCTION ${name}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $capture$
#variable_conflict use_variable
DECLARE
  objects json;
  shaped oid[];
  children oid[];
  dropped json;
  rewritten json;
  page json;
  pages integer := 0;
  has_index boolean;
  own_xid int8;
BEGIN
  IF tg_event = 'ddl_command_end' THEN
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object('tag', k.tag, 'type', k.type,
             'identity', k.identity, 'table', k.table_oid::int8)),
           pg_catalog.array_agg(DISTINCT k.table_oid) FILTER (WHERE k.is_shaping)
      INTO objects, shaped
      FROM (${COMMANDS_SQL}) AS k;
    IF objects IS NULL THEN RETURN; END IF;
    IF shaped IS NOT NULL THEN
      ${CHANGED_CHILDREN_SQL};
      shaped := shaped || children;
    END IF;
  ELSIF tg_event = 'sql_drop' THEN
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object('oid', d.objid::int8, 'identity', d.object_identity)
             ORDER BY d.objid)
             FILTER (WHERE d.objsubid = 0 AND d.object_type IN ('table', 'foreign table')),
           pg_catalog.array_agg(DISTINCT d.objid) FILTER (WHERE d.object_type = 'table column'),
           coalesce(bool_or(d.object_type = 'index'), false)
      INTO dropped, shaped, has_index
      FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
     WHERE NOT d.is_temporary AND d.classid = 'pg_catalog.pg_class'::regclass;
    IF has_index THEN
      SELECT shaped || pg_catalog.array_agg(c.oid) INTO shaped
        FROM pg_catalog.pg_class c
       WHERE c.relreplident = 'i' AND c.relpersistence <> 't'
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                          WHERE x.indrelid = c.oid AND x.indisreplident);
    END IF;
    IF dropped IS NULL AND shaped IS NULL THEN RETURN; END IF;
  ELSE
    SELECT ARRAY[c.oid], pg_catalog.json_build_object('oid', c.oid::int8,
             'reason', pg_catalog.pg_event_trigger_table_rewrite_reason())
      INTO shaped, rewritten
      FROM pg_catalog.pg_class c
     WHERE c.oid = pg_catalog.pg_event_trigger_table_rewrite_oid()
       AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
    IF shaped IS NULL THEN RETURN; END IF;
  END IF;
  ${emit(`''`)};
  ${OWN_XID_SQL};
  FOR page IN
    SELECT pg_catalog.json_agg(s.shape ORDER BY s.position)
      FROM (SELECT ${SHAPE_OF_C} AS shape, pg_catalog.row_number() OVER (ORDER BY c.oid) AS position
              FROM pg_catalog.pg_class c
             WHERE c.oid = ANY (shaped) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't') AS s
     GROUP BY (s.position - 1) / ${RELATIONS_MAX} ORDER BY min(s.position)
  LOOP
    ${emit(`pg_catalog.json_build_object(${described}, 'event', tg_event, 'tag', tg_tag,
      'objects', CASE WHEN pages = 0 THEN objects END, 'dropped', CASE WHEN pages = 0 THEN dropped END,
      'rewritten', rewritten, 'relations', page)::text`)};
    pages := pages + 1;
  END LOOP;
  IF pages = 0 THEN
    ${emit(`pg_catalog.json_build_object(${described}, 'event', tg_event, 'tag', tg_tag,
      'objects', objects, 'dropped', dropped)::text`)};
  END IF;
  ${emit(`''`)};
EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
  BEGIN
    ${emit(`pg_catalog.json_build_object(${head}, 'event', 'failed', 'tag', tg_tag,
      'sqlstate', sqlstate)::text`)};
    ${emit(`''`)};
  EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN NULL;
  END;
END
$capture$`;
}

/** As bytes of UTF8: a message crosses as it was written, whatever the encoding of the database. */
function emit(content: string): string {
  return `PERFORM pg_catalog.pg_logical_emit_message(true, ${quoteLiteral(DDL_PREFIX)}, pg_catalog.convert_to(${content}, 'UTF8'))`;
}

/** What installs the capture; each statement may be run again. */
export function installSql(shadowId: string): readonly string[] {
  const names = captureNames(shadowId);
  return [
    `CREATE SCHEMA IF NOT EXISTS ${SCHEMA}`,
    captureFunctionSql(shadowId, names.function),
    `REVOKE ALL ON FUNCTION ${names.function}() FROM PUBLIC`,
    ...names.triggers.flatMap(({ name, event }) => [
      `DROP EVENT TRIGGER IF EXISTS ${quoteIdentifier(name)}`,
      `CREATE EVENT TRIGGER ${quoteIdentifier(name)} ON ${event}
         EXECUTE FUNCTION ${names.function}()`,
    ]),
  ];
}

/** What removes it; every statement does nothing where its object is gone. */
export function removeSql(shadowId: string): readonly string[] {
  const names = captureNames(shadowId);
  return [
    ...names.triggers.map(({ name }) => `DROP EVENT TRIGGER IF EXISTS ${quoteIdentifier(name)}`),
    `DROP FUNCTION IF EXISTS ${names.function}()`,
  ];
}
