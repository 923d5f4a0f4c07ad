import { quoteIdentifier } from '#src/core/table.ts';
import { readRolesThere } from '#src/shadow/schema/ownership.ts';

import { finding } from './checks.ts';
import { type CheckContext, field, onTarget, selectedOids } from './context.ts';
import type { Finding } from './finding.ts';

/**
 * The roles of this database's owners and grants, without those of tables that are not selected, and of
 * what is not carried over anyway. A role that the server came with is not among the dependencies.
 */
const ROLES_SQL = `
WITH used (role, is_owner, classid, objid) AS (
  SELECT d.refobjid, d.deptype = 'o', d.classid, d.objid
    FROM pg_shdepend d
   WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a')
     AND d.classid NOT IN ('pg_publication'::regclass, 'pg_event_trigger'::regclass,
                           'pg_largeobject'::regclass)
     AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
           SELECT FROM pg_class c
            WHERE c.oid = d.objid AND c.relkind IN ('r', 'p', 'f') AND c.oid <> ALL ($1::oid[])))
  UNION ALL
  SELECT c.relowner, true, 'pg_class'::regclass, c.oid FROM pg_class c WHERE c.oid = ANY ($1::oid[])
)
SELECT r.rolname, bool_or(u.is_owner) AS is_owner,
       count(DISTINCT (u.classid, u.objid)) FILTER (WHERE u.is_owner) AS owned,
       count(DISTINCT (u.classid, u.objid)) FILTER (WHERE NOT u.is_owner) AS granted
  FROM used u JOIN pg_roles r ON r.oid = u.role
 GROUP BY 1 ORDER BY 1`;

const MEMBERSHIP_OPTIONS_MAJOR = 16;

/** What will become of owners and grants (`--owners`). */
export async function checkOwners(context: CheckContext): Promise<readonly Finding[]> {
  const { source, target, sourceServer, targetServer, owners } = context;
  const rows = await source.query(ROLES_SQL, [selectedOids(context)]);
  if (rows.length === 0) return [];
  const roles = await readRolesThere(
    target,
    rows.map((row) => field(row, 'rolname')),
  );
  const me = quoteIdentifier(roles.copying);
  if (owners === 'skip') {
    const isOwn = rows.length === 1 && field(rows[0] ?? {}, 'rolname') === roles.copying;
    if (isOwn) return [];
    return [
      finding(
        'owners-not-carried',
        `database ${quoteIdentifier(sourceServer.database.name)}`,
        `owners and grants are left out, as asked for: everything on the target belongs to role ${me}`,
      ),
    ];
  }
  return rows.flatMap((row) => {
    const name = field(row, 'rolname');
    const role = quoteIdentifier(name);
    const has = [
      ...(row['owned'] === '0' ? [] : [`owns ${row['owned']} objects`]),
      ...(row['granted'] === '0' ? [] : [`has grants on ${row['granted']}`]),
    ].join(' and ');
    if (!roles.present.has(name)) {
      return [
        finding(
          'owner-missing',
          `role ${role}`,
          `it ${has}, and the target does not have it: there its objects will belong to role ${me}, and its grants are left out`,
          onTarget(`CREATE ROLE ${role} NOLOGIN`),
        ),
      ];
    }
    if (row['is_owner'] !== 't' || roles.usable.has(name)) return [];
    const how =
      targetServer.major >= MEMBERSHIP_OPTIONS_MAJOR ? ' WITH INHERIT TRUE, SET TRUE' : '';
    return [
      finding(
        'owner-not-granted',
        `role ${role}`,
        `it ${has}, and role ${me} may not act as it on the target: there its objects will belong to role ${me}`,
        onTarget(`GRANT ${role} TO ${me}${how}`),
      ),
    ];
  });
}
