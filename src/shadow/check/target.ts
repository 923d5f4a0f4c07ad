import { quoteIdentifier } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { finding } from './checks.ts';
import { byOperator, type CheckContext, onTarget, field } from './context.ts';
import type { Finding } from './finding.ts';
import { checkExistingObjects } from './target-objects.ts';

/** Whether the target can be written to, by us and only by us. */
export async function checkTarget(context: CheckContext): Promise<readonly Finding[]> {
  return [
    ...checkWritable(context),
    ...(await checkSchemaRights(context)),
    ...(await checkReplicaRole(context)),
    ...(context.isFollowed ? await checkTemporary(context) : []),
    ...(context.isFollowed ? await checkOrigin(context) : []),
    ...(await checkExistingObjects(context)),
    ...(await checkSessions(context)),
    ...(await checkSubscriptions(context)),
    ...(await checkEventTriggers(context)),
    ...(await checkSize(context)),
  ];
}

function checkWritable({ targetServer }: CheckContext): readonly Finding[] {
  const { database, role } = targetServer;
  const databaseSql = quoteIdentifier(database.name);
  const findings: Finding[] = [];
  if (targetServer.isInRecovery) {
    findings.push(
      finding(
        'target-standby',
        'server',
        'the target is a standby and accepts no writes',
        byOperator("Name the primary's address as the target."),
      ),
    );
  } else if (targetServer.isReadOnly) {
    const roleSql = quoteIdentifier(role.name);
    findings.push(
      finding(
        'target-read-only',
        `database ${databaseSql}`,
        'transactions are read-only by default',
        onTarget(
          `BEGIN READ WRITE; ALTER ROLE ${roleSql} IN DATABASE ${databaseSql} SET default_transaction_read_only = off; COMMIT`,
        ),
      ),
    );
  }
  if (!role.canCreateInDatabase) {
    findings.push(
      finding(
        'target-create-privilege',
        `role ${quoteIdentifier(role.name)}`,
        `without CREATE on database ${databaseSql} it can make no schema, not even that of the ledger`,
        onTarget(`GRANT CREATE ON DATABASE ${databaseSql} TO ${quoteIdentifier(role.name)}`),
      ),
    );
  }
  return findings;
}

const SCHEMA_RIGHTS_SQL = `
SELECT nspname AS schema FROM pg_namespace
 WHERE nspname = ANY ($1::text[])
   AND NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE'))
 ORDER BY 1`;

/** Since 15 the schema public, which every database has, lets only its owner create. */
async function checkSchemaRights(context: CheckContext): Promise<readonly Finding[]> {
  const { relations, target, targetServer } = context;
  const schemas = new Set(
    [...relations.tables, ...relations.partitioned].map(({ schema }) => schema),
  );
  const role = quoteIdentifier(targetServer.role.name);
  const rows = await target.query(SCHEMA_RIGHTS_SQL, [[...schemas]]);
  return rows.map((row) => {
    const schema = quoteIdentifier(field(row, 'schema'));
    return finding(
      'target-schema-privilege',
      `schema ${schema}`,
      `role ${role} may not create in it`,
      onTarget(`GRANT USAGE, CREATE ON SCHEMA ${schema} TO ${role}`),
    );
  });
}

/** The rows to delete of a table without a key are staged in a temporary table. */
async function checkTemporary({
  target,
  targetServer,
  relations,
}: CheckContext): Promise<readonly Finding[]> {
  if (relations.tables.every(({ key }) => key.length > 0)) return [];
  const [row] = await target.query(
    `SELECT has_database_privilege(current_database(), 'TEMPORARY') AS may`,
  );
  if (row?.['may'] === 't') return [];
  const role = quoteIdentifier(targetServer.role.name);
  const database = quoteIdentifier(targetServer.database.name);
  return [
    finding(
      'target-temporary-privilege',
      `role ${role}`,
      `it may not make temporary tables in database ${database}, by which tables without a key are followed`,
      onTarget(`GRANT TEMPORARY ON DATABASE ${database} TO ${role}`),
    ),
  ];
}

const INSUFFICIENT_PRIVILEGE = '42501';

/** Applying with foreign keys and triggers bypassed needs the parameter (trap 13): ask by setting it. */
async function checkReplicaRole({
  target,
  targetServer,
}: CheckContext): Promise<readonly Finding[]> {
  if (await maySetReplicaRole(target)) return [];
  const role = quoteIdentifier(targetServer.role.name);
  const hasGrant = targetServer.major >= 15;
  return [
    finding(
      'target-replica-role',
      `role ${role}`,
      `it may not set session_replication_role, without which triggers and foreign keys would act on what is applied${hasGrant ? '' : '; on version 14 only a superuser may'}`,
      onTarget(
        hasGrant
          ? `GRANT SET ON PARAMETER session_replication_role TO ${role}`
          : `ALTER ROLE ${role} SUPERUSER`,
      ),
    ),
  ];
}

async function maySetReplicaRole(target: Session): Promise<boolean> {
  try {
    // For this transaction only, which does nothing else.
    await target.transaction(async () =>
      target.query('SET LOCAL session_replication_role = replica'),
    );
    return true;
  } catch (error) {
    if (sqlstateOf(error) === INSUFFICIENT_PRIVILEGE) return false;
    throw error;
  }
}

const ORIGIN_FUNCTIONS: readonly string[] = [
  'pg_replication_origin_create(text)',
  'pg_replication_origin_drop(text)',
  'pg_replication_origin_session_setup(text)',
];
const ORIGIN_SQL = `
SELECT signature FROM unnest($1::text[]) AS u(signature)
 WHERE NOT has_function_privilege(signature, 'EXECUTE')`;

async function checkOrigin(context: CheckContext): Promise<readonly Finding[]> {
  const { target, targetServer } = context;
  const missing = await target.query(ORIGIN_SQL, [ORIGIN_FUNCTIONS]);
  if (missing.length === 0) return checkFreeOrigin(context);
  const role = quoteIdentifier(targetServer.role.name);
  const functions = missing.map((row) => `pg_catalog.${field(row, 'signature')}`).join(', ');
  return [
    finding(
      'target-origin',
      `role ${role}`,
      'it may not use replication origins, so what is applied carries no mark of where it comes from; whoever replicates from the target cannot tell it from its own writes',
      onTarget(`GRANT EXECUTE ON FUNCTION ${functions} TO ${role}`),
    ),
  ];
}

/** Those that have made progress keep their place until they are dropped, ours of a resumed shadow too. */
const ORIGINS_SQL = 'SELECT count(*) AS used FROM pg_show_replication_origin_status()';

async function checkFreeOrigin(context: CheckContext): Promise<readonly Finding[]> {
  const { target, targetServer, resumedShadowId } = context;
  const { setting, count } = targetServer.settings.originsMax;
  if (!targetServer.role.isSuperuser || resumedShadowId !== undefined) return [];
  const [row] = await target.query(ORIGINS_SQL);
  const used = Number(row?.['used']);
  if (used < count) return [];
  return [
    finding(
      'target-origin-free',
      `setting ${setting}`,
      `${used} of ${count} replication origins are in use, and one more is needed to record progress; a restart of the server makes a change effective`,
      onTarget(`ALTER SYSTEM SET ${setting} = ${used + 1}`),
    ),
  ];
}

const SESSIONS_SQL = `
SELECT application_name, count(*) AS sessions FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND coalesce(backend_type, 'client backend') = 'client backend'
   AND coalesce(application_name, '') NOT LIKE 'understudy%'
 GROUP BY 1 ORDER BY 1`;

async function checkSessions({ target, targetServer }: CheckContext): Promise<readonly Finding[]> {
  const rows = await target.query(SESSIONS_SQL);
  const count = rows.reduce((sum, row) => sum + Number(row['sessions']), 0);
  if (count === 0) return [];
  const names = rows.map((row) => field(row, 'application_name') || 'without a name').join(', ');
  return [
    finding(
      'target-sessions',
      `database ${quoteIdentifier(targetServer.database.name)}`,
      `${count} other sessions are connected (${names}); whatever they write makes the shadow differ`,
    ),
  ];
}

async function checkSubscriptions({ target }: CheckContext): Promise<readonly Finding[]> {
  const rows = await target.query(
    `SELECT subname FROM pg_subscription
      WHERE subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      ORDER BY 1`,
  );
  return rows.map((row) => {
    const name = quoteIdentifier(field(row, 'subname'));
    return finding(
      'target-subscription',
      `subscription ${name}`,
      'it writes to the target, too; what it writes into a selected table makes the shadow differ',
      onTarget(`ALTER SUBSCRIPTION ${name} DISABLE`),
    );
  });
}

/** Not those of extensions, which belong to them. */
const EVENT_TRIGGERS_SQL = `
SELECT evtname FROM pg_event_trigger t
 WHERE evtenabled <> 'D' AND NOT EXISTS (
   SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass
      AND d.objid = t.oid AND d.deptype = 'e')
 ORDER BY 1`;

async function checkEventTriggers({ target }: CheckContext): Promise<readonly Finding[]> {
  const rows = await target.query(EVENT_TRIGGERS_SQL);
  return rows.map((row) => {
    const name = quoteIdentifier(field(row, 'evtname'));
    return finding(
      'target-event-trigger',
      `event trigger ${name}`,
      'it acts on the definitions that we restore',
      onTarget(`ALTER EVENT TRIGGER ${name} DISABLE`),
    );
  });
}

const SIZE_SQL = `
SELECT pg_size_pretty(sum(pg_total_relation_size(oid))) AS size
  FROM pg_class WHERE oid = ANY ($1::oid[])`;

async function checkSize({ source, relations }: CheckContext): Promise<readonly Finding[]> {
  const oids = relations.tables.map(({ oid }) => String(oid));
  const [row] = await source.query(SIZE_SQL, [oids]);
  const size = row?.['size'] ?? undefined;
  if (size === undefined) return [];
  return [
    finding(
      'target-disk',
      'server',
      `the selected tables and their indexes take ${size} on the source; SQL cannot see whether the target's disk has that much`,
    ),
  ];
}
