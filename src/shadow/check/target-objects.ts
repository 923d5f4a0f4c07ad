import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import { USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import type { Row } from '#src/db/postgres/connection/session.ts';
import { readDumpExclusions } from '#src/shadow/schema/exclusions.ts';

import { finding } from './checks.ts';
import { type CheckContext, onTarget, field } from './context.ts';
import type { Finding } from './finding.ts';

/**
 * No object of the target may have the name of one that the schema copy creates. A resumed shadow made
 * them itself.
 */
export async function checkExistingObjects(context: CheckContext): Promise<readonly Finding[]> {
  const { source, target, relations, resumedShadowId, otherShadowId } = context;
  // With other filters it is refused for that, not for what it made itself.
  if (resumedShadowId !== undefined || otherShadowId !== undefined) return [];
  const existing = await target.query(OBJECTS_SQL);
  if (existing.length === 0) return [];
  const excluded = await readDumpExclusions(source, relations);
  const excludedSchemas = new Set(excluded.schemas);
  const excludedRelations = new Set(excluded.relations.map(quoteTable));
  const created = (await source.query(OBJECTS_SQL)).filter(
    (row) =>
      row['is_relation'] !== 't' ||
      !(excludedSchemas.has(field(row, 'schema')) || excludedRelations.has(qualifiedName(row))),
  );
  const wanted = new Set(created.map(identityOf));
  return existing.filter((row) => wanted.has(identityOf(row))).map(describe);
}

/**
 * What a user can create by name: relations with storage or a query, types that are not a relation's or
 * an array, routines. Not what belongs to an extension, and not indexes or sequences that belong to a
 * table, since these come and go with it.
 */
const OBJECTS_SQL = `
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                      WHEN 'c' THEN 'TYPE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind,
       n.nspname AS schema, c.relname AS name, '' AS arguments, c.relkind <> 'c' AS is_relation
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c') AND ${USER_RELATIONS}
   AND NOT (c.relkind = 'S' AND EXISTS (
     SELECT FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.objid = c.oid
        AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i')))
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, n.nspname, t.typname, '', false
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE (t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'b' AND t.typcategory <> 'A'))
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'understudy')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass
                      AND d.objid = t.oid AND d.deptype = 'e')
UNION ALL
SELECT 'ROUTINE', n.nspname, p.proname, '(' || pg_get_function_identity_arguments(p.oid) || ')', false
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'understudy')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
ORDER BY 2, 3, 1, 4`;

function qualifiedName(row: Row): string {
  return quoteTable({ schema: field(row, 'schema'), name: field(row, 'name') });
}

/** Relations and types share one space of names, routines have their own. */
function identityOf(row: Row): string {
  const space = row['kind'] === 'ROUTINE' ? 'routine' : 'relation';
  return `${space} ${qualifiedName(row)}${field(row, 'arguments')}`;
}

/**
 * The fix moves the object, and what belongs to it, out of the way: a DROP that somebody runs without
 * reading it could cost the only copy of something.
 */
function describe(row: Row): Finding {
  const kind = field(row, 'kind');
  const attic = quoteIdentifier(`before_understudy_${field(row, 'schema')}`);
  const name = `${qualifiedName(row)}${field(row, 'arguments')}`;
  return finding(
    'target-object-exists',
    `${kind.toLowerCase()} ${name}`,
    "the target has an object of this name already, and the source's cannot be created beside it",
    onTarget(`CREATE SCHEMA IF NOT EXISTS ${attic}; ALTER ${kind} ${name} SET SCHEMA ${attic}`),
  );
}
