import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import { USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import type { Locale } from '#src/db/postgres/catalog/server.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { countObjects, includesLargeObjects } from '#src/shadow/large-objects/read-objects.ts';

import { finding } from './checks.ts';
import {
  byOperator,
  type CheckContext,
  describeTable,
  nameOf,
  onSource,
  onTarget,
  selectedOids,
  field,
} from './context.ts';
import { checkExtensions } from './extensions.ts';
import type { Finding } from './finding.ts';
import { checkOwners } from './owners.ts';

/** What the definitions need from the target, and what is not carried over at all. */
export async function checkSchemaCarry(context: CheckContext): Promise<readonly Finding[]> {
  return [
    ...(await checkExtensions(context)),
    ...(await checkSuperuserObjects(context)),
    ...checkLocale(context),
    ...(await checkCollations(context)),
    ...(await checkCompression(context)),
    ...(await checkPolicyRoles(context)),
    ...(await checkOwners(context)),
    ...(await checkNotCarried(context)),
  ];
}

function checkLocale({ sourceServer, targetServer }: CheckContext): readonly Finding[] {
  const from = sourceServer.database.locale;
  const to = targetServer.database.locale;
  if (describeLocale(from) === describeLocale(to)) return [];
  return [
    finding(
      'locale-differs',
      `database ${quoteIdentifier(targetServer.database.name)}`,
      `the source sorts and compares text by ${describeLocale(from)}, the target by ${describeLocale(to)}: queries may order rows differently`,
      byOperator(
        'Make the target with CREATE DATABASE … TEMPLATE template0 and the locale of the source.',
      ),
    ),
  ];
}

const PROVIDERS: Readonly<Record<string, string>> = { c: 'libc', i: 'icu', b: 'builtin' };

function describeLocale(locale: Locale): string {
  const names =
    locale.name ??
    (locale.collate === locale.ctype ? locale.collate : `${locale.collate}/${locale.ctype}`);
  const version = locale.version === undefined ? '' : ` version ${locale.version}`;
  return `${PROVIDERS[locale.provider] ?? locale.provider} ${names}${version}`;
}

/** Collations of selected columns that come with a server; a user's own are created by the definitions. */
const COLLATIONS_SQL = `
SELECT DISTINCT c.collname AS name, pg_collation_actual_version(c.oid) AS version
  FROM pg_attribute a
  JOIN pg_collation c ON c.oid = a.attcollation
 WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
   AND c.collnamespace = 'pg_catalog'::regnamespace AND c.collname NOT IN ('default', 'C', 'POSIX')
 ORDER BY 1`;
const TARGET_COLLATIONS_SQL = `
SELECT DISTINCT ON (c.collname) c.collname AS name, pg_collation_actual_version(c.oid) AS version
  FROM pg_collation c
 WHERE c.collname = ANY ($1::text[]) AND c.collnamespace = 'pg_catalog'::regnamespace
   AND c.collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))`;

async function checkCollations(context: CheckContext): Promise<readonly Finding[]> {
  const used = await context.source.query(COLLATIONS_SQL, [selectedOids(context)]);
  if (used.length === 0) return [];
  const names = used.map((row) => field(row, 'name'));
  const rows = await context.target.query(TARGET_COLLATIONS_SQL, [names]);
  const known = new Map(rows.map((row) => [field(row, 'name'), row['version'] ?? undefined]));
  return used.flatMap((row) => {
    const name = field(row, 'name');
    const object = `collation ${quoteIdentifier(name)}`;
    if (!known.has(name)) {
      return [
        finding(
          'collation-missing',
          object,
          'a selected column uses it and the target does not have it; the operating system there, or its ICU library, must know the locale first',
          onTarget(`SELECT pg_import_system_collations('pg_catalog')`),
        ),
      ];
    }
    const version = row['version'] ?? undefined;
    if (known.get(name) === version) return [];
    return [
      finding(
        'collation-version',
        object,
        `the source has version ${version ?? 'unknown'}, the target ${known.get(name) ?? 'unknown'}: text may sort differently`,
      ),
    ];
  });
}

const LZ4_SQL = `
SELECT n.nspname AS schema, c.relname AS name, a.attname
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attcompression = 'l'
 ORDER BY 1, 2, 3`;

async function checkCompression(context: CheckContext): Promise<readonly Finding[]> {
  if (context.targetServer.settings.hasLz4) return [];
  const rows = await context.source.query(LZ4_SQL, [selectedOids(context)]);
  return rows.map((row) => {
    const column = quoteIdentifier(field(row, 'attname'));
    return finding(
      'lz4-missing',
      `column ${quoteTable(nameOf(row))}.${column}`,
      'it is COMPRESSION lz4, and the target server is built without lz4; another target would do, too',
      onSource(
        `ALTER TABLE ${quoteTable(nameOf(row))} ALTER COLUMN ${column} SET COMPRESSION pglz`,
      ),
    );
  });
}

/** What only a superuser may create; the text search templates of a user are too rare to look for. */
const SUPERUSER_OBJECTS_SQL = `
WITH objects AS (
  SELECT 'pg_proc'::regclass AS classid, p.oid, 'function ' || p.oid::regprocedure::text AS object
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
   WHERE NOT l.lanpltrusted AND l.lanname <> 'internal' AND p.oid >= 16384
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, 'type ' || t.oid::regtype::text
    FROM pg_type t WHERE t.typtype = 'b' AND t.typcategory <> 'A' AND t.oid >= 16384
  UNION ALL
  SELECT 'pg_foreign_data_wrapper'::regclass, w.oid, 'foreign data wrapper ' || quote_ident(w.fdwname)
    FROM pg_foreign_data_wrapper w
  UNION ALL
  SELECT 'pg_am'::regclass, m.oid, 'access method ' || quote_ident(m.amname)
    FROM pg_am m WHERE m.oid >= 16384
  UNION ALL
  SELECT 'pg_opclass'::regclass, c.oid, 'operator class ' || quote_ident(c.opcname)
    FROM pg_opclass c WHERE c.oid >= 16384
)
SELECT object FROM objects o
 WHERE NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
 ORDER BY 1`;

async function checkSuperuserObjects(context: CheckContext): Promise<readonly Finding[]> {
  const { role } = context.targetServer;
  if (role.isSuperuser) return [];
  const rows = await context.source.query(SUPERUSER_OBJECTS_SQL);
  const roleSql = quoteIdentifier(role.name);
  return rows.map((row) =>
    finding(
      'target-superuser',
      field(row, 'object'),
      `only a superuser may create it, and role ${roleSql} is none`,
      onTarget(`ALTER ROLE ${roleSql} SUPERUSER`),
    ),
  );
}

const POLICY_ROLES_SQL = `
SELECT DISTINCT r.rolname
  FROM pg_policy p CROSS JOIN unnest(p.polroles) AS u(oid) JOIN pg_roles r ON r.oid = u.oid
 WHERE p.polrelid = ANY ($1::oid[])
 ORDER BY 1`;
const MISSING_ROLES_SQL = `
SELECT name FROM unnest($1::text[]) AS u(name)
 WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = u.name)`;

async function checkPolicyRoles(context: CheckContext): Promise<readonly Finding[]> {
  const used = await context.source.query(POLICY_ROLES_SQL, [selectedOids(context)]);
  if (used.length === 0) return [];
  const names = used.map((row) => field(row, 'rolname'));
  const missing = await context.target.query(MISSING_ROLES_SQL, [names]);
  return missing.map((row) => {
    const role = quoteIdentifier(field(row, 'name'));
    return finding(
      'role-missing',
      `role ${role}`,
      'a row security policy of a selected table names it, and the target does not have it',
      onTarget(`CREATE ROLE ${role} NOLOGIN`),
    );
  });
}

const COUNTS_SQL = `
SELECT (SELECT string_agg(quote_ident(evtname), ', ' ORDER BY evtname) FROM pg_event_trigger t
         WHERE NOT EXISTS (SELECT FROM pg_depend d
                            WHERE d.classid = 'pg_event_trigger'::regclass
                              AND d.objid = t.oid AND d.deptype = 'e')) AS event_triggers,
       (SELECT string_agg(quote_ident(pubname), ', ' ORDER BY pubname) FROM pg_publication
         WHERE pubname !~ '^understudy_') AS publications,
       (SELECT string_agg(quote_ident(subname), ', ' ORDER BY subname) FROM pg_subscription
         WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
         AS subscriptions`;
const MATERIALIZED_SQL = `
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND ${USER_RELATIONS}
 ORDER BY 1, 2`;

async function checkNotCarried(context: CheckContext): Promise<readonly Finding[]> {
  const { source } = context;
  const [row] = await source.query(COUNTS_SQL);
  const materialized = await source.query(MATERIALIZED_SQL);
  return [
    ...(await checkLargeObjects(context)),
    ...(row === undefined ? [] : describeCounts(row)),
    ...materialized.map((view) =>
      finding(
        'materialized-view',
        `materialized view ${describeTable(nameOf(view)).replace('table ', '')}`,
        'it is filled once, after the copy, and does not follow the source',
      ),
    ),
  ];
}

async function checkLargeObjects(context: CheckContext): Promise<readonly Finding[]> {
  const { source, selection, sourceServer } = context;
  const database = `database ${quoteIdentifier(sourceServer.database.name)}`;
  const isIncluded = includesLargeObjects(selection);
  const { objects, unreadable } = await countObjects(source);
  const found: Finding[] = [];
  if (objects > 0) {
    const cause = isIncluded
      ? `its ${objects} large objects are copied, but changes to them do not follow: status tells when there were any, verify --repair brings them over`
      : `its ${objects} large objects belong to no table, so that a selection by schema or table leaves them out; columns that name them will point to nothing`;
    found.push(finding('large-objects', database, cause));
  }
  if (!isIncluded) return found;
  if (unreadable > 0) {
    const role = quoteIdentifier(sourceServer.role.name);
    found.push(
      finding(
        'large-objects-unreadable',
        database,
        `role ${role} may not read ${unreadable} of its ${objects} large objects; they are not copied, and count as unverified`,
        onSource(`GRANT SELECT ON LARGE OBJECT <oid> TO ${role}`),
      ),
    );
  }
  return [...found, ...(await checkObjectsThere(context))];
}

/** Whatever the source has: an object that only the target has is one too many, and a repair removes it. */
async function checkObjectsThere(context: CheckContext): Promise<readonly Finding[]> {
  const { target, targetServer, resumedShadowId, otherShadowId } = context;
  if (resumedShadowId !== undefined || otherShadowId !== undefined) return [];
  const database = `database ${quoteIdentifier(targetServer.database.name)}`;
  const owner = await findOwner(target);
  if (owner !== undefined) {
    return [
      finding(
        'target-large-objects',
        database,
        `shadow ${owner} keeps the large objects of its source in it, and those of two sources could not be told apart`,
        byOperator('Use another target database, or select schemas or tables.'),
      ),
    ];
  }
  const { objects } = await countObjects(target);
  if (objects === 0) return [];
  return [
    finding(
      'target-large-objects',
      database,
      `it has ${objects} large objects, and those of the source come under their own OIDs; what the source has not would be removed by a repair`,
      byOperator(
        'Use a target database without large objects, move them elsewhere, or select schemas or tables.',
      ),
    ),
  ];
}

/** The ledger may hold several shadows; the large objects of a database can be those of one only. */
async function findOwner(target: Session): Promise<string | undefined> {
  const [ledger] = await target.query(
    `SELECT to_regclass('understudy.large_objects') IS NOT NULL AS is_there`,
  );
  if (ledger?.['is_there'] !== 't') return undefined;
  const [row] = await target.query('SELECT min(shadow_id) AS shadow FROM understudy.large_objects');
  return row?.['shadow'] ?? undefined;
}

function describeCounts(row: Row): readonly Finding[] {
  const findings: Finding[] = [];
  for (const [id, kind, column] of [
    ['event-trigger-not-carried', 'event trigger', 'event_triggers'],
    ['publication-not-carried', 'publication', 'publications'],
    ['subscription-not-carried', 'subscription', 'subscriptions'],
  ] as const) {
    const names = row[column] ?? undefined;
    if (names === undefined) continue;
    findings.push(finding(id, `${kind} ${names}`, 'it is not carried over to the target'));
  }
  return findings;
}
