import { describeVersion, fixedVersion } from '#src/core/late-publication.ts';
import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import { USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { finding } from './checks.ts';
import {
  byOperator,
  type CheckContext,
  describeTable,
  nameOf,
  onSource,
  selectedOids,
  field,
} from './context.ts';
import type { Finding } from './finding.ts';

const VERSION_MIN = 14;
const VERSION_MAX = 18;

/** Versions, and what our role may do on the source. */
export async function checkAccess(context: CheckContext): Promise<readonly Finding[]> {
  return [
    ...checkVersions(context),
    ...checkLatePublication(context),
    ...checkRole(context),
    ...(await checkTableRights(context)),
    ...(await checkSequenceRights(context)),
  ];
}

function checkVersions({ sourceServer, targetServer }: CheckContext): readonly Finding[] {
  const findings: Finding[] = [];
  const range = `${VERSION_MIN} to ${VERSION_MAX}`;
  for (const [id, { major }] of [
    ['source-version', sourceServer],
    ['target-version', targetServer],
  ] as const) {
    if (major >= VERSION_MIN && major <= VERSION_MAX) continue;
    findings.push(
      finding(
        id,
        `server version ${major}`,
        `Understudy works with Postgres ${range}, and this is ${major}`,
        byOperator(`Use a server of version ${range}.`),
      ),
    );
  }
  if (targetServer.major < sourceServer.major) {
    findings.push(
      finding(
        'target-older',
        `server version ${targetServer.major}`,
        `the target's version ${targetServer.major} is older than the source's ${sourceServer.major}, whose definitions it may not understand`,
        byOperator(`Use a target of version ${sourceServer.major} or newer.`),
      ),
    );
  }
  // Not by system identifier: a copy of the server's files has the same one.
  const isSame =
    sourceServer.startedAt === targetServer.startedAt &&
    sourceServer.database.name === targetServer.database.name;
  if (isSame) {
    findings.push(
      finding(
        'same-database',
        `database ${quoteIdentifier(sourceServer.database.name)}`,
        'source and target are the same database of the same server',
        byOperator('Name another database as the target.'),
      ),
    );
  }
  return findings;
}

/** Minor versions that lose changes of tables which are published later (core/late-publication.ts). */
export function checkLatePublication({
  isFollowed,
  source: { serverVersion },
}: {
  readonly isFollowed: boolean;
  readonly source: Pick<Session, 'serverVersion'>;
}): readonly Finding[] {
  const fixed = fixedVersion(serverVersion);
  const major = Math.floor(serverVersion / 10_000);
  // Another finding refuses what is older altogether.
  if (!isFollowed || fixed === undefined || major < VERSION_MIN) return [];
  return [
    finding(
      'late-publication',
      `server version ${describeVersion(serverVersion)}`,
      `before ${fixed} Postgres can lose changes of a table that is published while others are followed, so new partitions, and tables that would have to be published again, are not followed`,
      byOperator(`Update the source to the newest ${major}.x, at least ${fixed}.`),
    ),
  ];
}

function checkRole({ sourceServer, isFollowed }: CheckContext): readonly Finding[] {
  if (!isFollowed) return [];
  const { role, database } = sourceServer;
  const roleSql = quoteIdentifier(role.name);
  const findings: Finding[] = [];
  if (!role.canReplicate) {
    const group = role.replicationGroup;
    findings.push(
      finding(
        'replication-privilege',
        `role ${roleSql}`,
        'without REPLICATION it can make no replication slot',
        onSource(
          group === undefined
            ? `ALTER ROLE ${roleSql} REPLICATION`
            : `GRANT ${quoteIdentifier(group)} TO ${roleSql}`,
        ),
      ),
    );
  }
  if (!role.canCreateInDatabase) {
    findings.push(
      finding(
        'publication-privilege',
        `role ${roleSql}`,
        `without CREATE on database ${quoteIdentifier(database.name)} it can make no publication`,
        onSource(`GRANT CREATE ON DATABASE ${quoteIdentifier(database.name)} TO ${roleSql}`),
      ),
    );
  }
  return findings;
}

/** row_security_active() also says so under row_security=off, where reading is an error (trap 5). */
const TABLE_RIGHTS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, c.relkind, pg_get_userbyid(c.relowner) AS owner,
       has_schema_privilege(n.oid, 'USAGE') AS may_use_schema,
       has_table_privilege(c.oid, 'SELECT') AS may_select,
       pg_has_role(c.relowner, 'USAGE') AS is_owner,
       c.relkind = 'r' AND row_security_active(c.oid) AS has_row_security
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[])
 ORDER BY 1, 2`;

async function checkTableRights(context: CheckContext): Promise<readonly Finding[]> {
  const role = context.sourceServer.role.name;
  const roleSql = quoteIdentifier(role);
  const findings: Finding[] = [];
  for (const row of await context.source.query(TABLE_RIGHTS_SQL, [selectedOids(context)])) {
    const table = nameOf(row);
    if (row['may_select'] !== 't' || row['may_use_schema'] !== 't') {
      findings.push(
        finding(
          'select-privilege',
          describeTable(table),
          `role ${roleSql} may not read it`,
          onSource(
            `GRANT USAGE ON SCHEMA ${quoteIdentifier(table.schema)} TO ${roleSql}; ` +
              `GRANT SELECT ON ${quoteTable(table)} TO ${roleSql}`,
          ),
        ),
      );
    }
    if (context.isFollowed && row['relkind'] === 'r' && row['is_owner'] !== 't') {
      const owner = quoteIdentifier(field(row, 'owner'));
      findings.push(
        finding(
          'table-ownership',
          describeTable(table),
          `only its owner ${owner} may put it into a publication, and role ${roleSql} is not a member of that`,
          onSource(`GRANT ${owner} TO ${roleSql}`),
        ),
      );
    }
    if (row['has_row_security'] === 't') {
      findings.push(
        finding(
          'row-security',
          describeTable(table),
          `row security applies to role ${roleSql}, so it cannot read every row`,
          onSource(`ALTER ROLE ${roleSql} BYPASSRLS`),
        ),
      );
    }
  }
  return findings;
}

/** Sequences that a selected table owns or takes a default from, and those that no table owns. */
const SEQUENCE_RIGHTS_SQL = `
WITH used AS (
  SELECT d.objid AS sequence_oid, d.refobjid AS table_oid, true AS is_owner
    FROM pg_depend d
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.deptype IN ('a', 'i')
  UNION ALL
  SELECT d.refobjid, f.adrelid, false
    FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
)
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') END
   AND ${USER_RELATIONS}
   AND (EXISTS (SELECT FROM used u WHERE u.sequence_oid = c.oid AND u.table_oid = ANY ($1::oid[]))
        OR NOT EXISTS (SELECT FROM used u WHERE u.sequence_oid = c.oid AND u.is_owner))
 ORDER BY 1, 2`;

async function checkSequenceRights(context: CheckContext): Promise<readonly Finding[]> {
  const roleSql = quoteIdentifier(context.sourceServer.role.name);
  const rows = await context.source.query(SEQUENCE_RIGHTS_SQL, [selectedOids(context)]);
  return rows.map((row) => {
    const sequence = quoteTable(nameOf(row));
    return finding(
      'sequence-privilege',
      `sequence ${sequence}`,
      `role ${roleSql} may not read it, so its value cannot be brought along`,
      onSource(`GRANT SELECT ON SEQUENCE ${sequence} TO ${roleSql}`),
    );
  });
}
