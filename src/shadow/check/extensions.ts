import { quoteIdentifier } from '#src/core/table.ts';
import type { RoleFacts } from '#src/db/postgres/catalog/server.ts';
import type { Row } from '#src/db/postgres/connection/session.ts';

import { finding } from './checks.ts';
import { byOperator, type CheckContext, onTarget, field } from './context.ts';
import type { Finding } from './finding.ts';

const SOURCE_SQL = `
SELECT e.extname AS name, e.extversion AS version, n.nspname AS schema
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname <> 'plpgsql' ORDER BY 1`;

/**
 * What the target can offer. Our role may create a trusted extension itself when it may create in the
 * database; any other takes a superuser.
 */
const TARGET_SQL = `
SELECT a.name, a.default_version AS version, e.extversion AS installed, n.nspname AS schema,
       coalesce(v.trusted, false) AS trusted
  FROM pg_available_extensions a
  LEFT JOIN pg_extension e ON e.extname = a.name
  LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
  LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
 WHERE a.name = ANY ($1::text[])`;

/** The definitions begin with CREATE EXTENSION IF NOT EXISTS for each extension of the source. */
export async function checkExtensions(context: CheckContext): Promise<readonly Finding[]> {
  const used = await context.source.query(SOURCE_SQL);
  if (used.length === 0) return [];
  const names = used.map((row) => field(row, 'name'));
  const offered = new Map(
    (await context.target.query(TARGET_SQL, [names])).map((row) => [field(row, 'name'), row]),
  );
  return used.flatMap((row) =>
    judge(row, offered.get(field(row, 'name')), context.targetServer.role),
  );
}

function judge(row: Row, offer: Row | undefined, role: RoleFacts): readonly Finding[] {
  const name = field(row, 'name');
  const nameSql = quoteIdentifier(name);
  const schemaSql = quoteIdentifier(field(row, 'schema'));
  const object = `extension ${nameSql}`;
  if (offer === undefined) {
    return [
      finding(
        'extension-missing',
        object,
        'the source uses it, and it is not available on the target server',
        byOperator(`Install the package that holds ${name} on the target's machine.`),
      ),
    ];
  }
  const installed = offer['installed'] ?? undefined;
  const mayCreate = role.isSuperuser || (offer['trusted'] === 't' && role.canCreateInDatabase);
  if (installed === undefined && !mayCreate) {
    return [
      finding(
        'extension-missing',
        object,
        `the source uses it, and role ${quoteIdentifier(role.name)} may not create it on the target`,
        onTarget(`CREATE EXTENSION IF NOT EXISTS ${nameSql} SCHEMA ${schemaSql}`),
      ),
    ];
  }
  if (installed !== undefined && offer['schema'] !== row['schema']) {
    return [
      finding(
        'extension-schema',
        object,
        `its types and functions are in schema ${schemaSql} on the source and in ${quoteIdentifier(field(offer, 'schema'))} on the target, so definitions that name them do not fit`,
        onTarget(`ALTER EXTENSION ${nameSql} SET SCHEMA ${schemaSql}`),
      ),
    ];
  }
  const version = installed ?? field(offer, 'version');
  if (version === row['version']) return [];
  return [
    finding(
      'extension-version',
      object,
      `the source has version ${field(row, 'version')}, the target ${version}: its types and functions may act differently`,
    ),
  ];
}
