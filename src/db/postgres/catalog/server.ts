import type { Session } from '#src/db/postgres/connection/session.ts';

/** What a server and the connected database and role are, as far as a shadow depends on it. */
export type Server = {
  /** `server_version_num` divided by 10,000. */
  readonly major: number;
  /** Seconds since the Unix epoch, with microseconds: no two servers on one network share it. */
  readonly startedAt: string;
  /** As printed by IDENTIFY_SYSTEM; undefined when the role may not call pg_control_system(). */
  readonly systemId: string | undefined;
  /** Undefined on a standby, where it changes under us. */
  readonly timeline: number | undefined;
  readonly isInRecovery: boolean;
  /** What a new transaction of this session would be: a standby, or default_transaction_read_only. */
  readonly isReadOnly: boolean;
  readonly database: DatabaseFacts;
  readonly role: RoleFacts;
  readonly settings: ServerSettings;
};

export type DatabaseFacts = {
  readonly name: string;
  readonly owner: string;
  readonly encoding: string;
  readonly locale: Locale;
};

/** The database's default collation; `version` is that of the library now, not when indexes were built. */
export type Locale = {
  /** c libc, i icu, b builtin. */
  readonly provider: string;
  readonly collate: string;
  readonly ctype: string;
  /** The ICU or builtin locale, when the provider has one. */
  readonly name: string | undefined;
  readonly version: string | undefined;
};

export type RoleFacts = {
  readonly name: string;
  readonly isSuperuser: boolean;
  /** REPLICATION, or membership in a managed service's role of that meaning. */
  readonly canReplicate: boolean;
  /** Whether pg_stat_activity shows other roles' sessions to it. */
  readonly seesActivity: boolean;
  readonly canCreateInDatabase: boolean;
  /** The managed service's role to grant for replication, where ALTER ROLE … REPLICATION is not allowed. */
  readonly replicationGroup: string | undefined;
};

export type ServerSettings = {
  readonly walLevel: string;
  readonly replicationSlotsMax: number;
  readonly walSendersMax: number;
  /** Replication origins that can be in use, and the setting's name: before 18 slots and origins shared one. */
  readonly originsMax: { readonly setting: string; readonly count: number };
  /** 0: never. */
  readonly walSenderTimeoutMs: number;
  /** Undefined: no limit. */
  readonly slotWalKeepBytesMax: number | undefined;
  /** 0: never; only 18 and newer have it. */
  readonly idleSlotTimeoutMs: number;
  readonly logicalDecodingWorkBytes: number;
  readonly hasLz4: boolean;
};

const FACTS_SQL = `
SELECT current_setting('server_version_num') AS version,
       pg_is_in_recovery() AS is_in_recovery,
       extract(epoch FROM pg_postmaster_start_time()) AS started_at,
       current_setting('transaction_read_only') AS is_read_only,
       CASE WHEN NOT pg_is_in_recovery()
            THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline_hex,
       has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may_read_control,
       d.datname, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding,
       d.datcollate, d.datctype,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
       has_database_privilege(d.oid, 'CREATE') AS can_create,
       r.rolname, r.rolsuper, r.rolreplication,
       pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS sees_activity,
       (SELECT g.rolname FROM pg_roles g WHERE g.rolname = 'rds_replication') AS replication_group,
       EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication'
                 AND pg_has_role(r.oid, g.oid, 'USAGE')) AS is_in_group
  FROM pg_database d, pg_roles r
 WHERE d.datname = current_database() AND r.rolname = current_user`;

/** The library's version of the default collation; the function came with 15. */
const VERSION_SQL = `
SELECT pg_database_collation_actual_version(oid) AS version
  FROM pg_database WHERE datname = current_database()`;
/** Before 15 the default was always libc's, which any collation of that library tells. */
const LIBC_VERSION_SQL = `
SELECT pg_collation_actual_version(c.oid) AS version
  FROM pg_collation c JOIN pg_database d ON d.datname = current_database()
 WHERE c.collprovider = 'c' AND c.collcollate = d.datcollate
   AND c.collencoding IN (-1, d.encoding) LIMIT 1`;

/** Read what the server is; three round trips. */
export async function readServer(session: Session): Promise<Server> {
  const [facts] = await session.query(FACTS_SQL);
  const row = facts ?? {};
  const mayReadControl = row['may_read_control'] === 't';
  const [control] = mayReadControl
    ? await session.query('SELECT system_identifier FROM pg_control_system()')
    : [];
  const [collation] = await session.query(
    session.serverVersion >= 150000 ? VERSION_SQL : LIBC_VERSION_SQL,
  );
  const timeline = row['timeline_hex'] ?? undefined;
  return {
    major: Math.floor(session.serverVersion / 10_000),
    startedAt: row['started_at'] ?? '',
    systemId: control?.['system_identifier'] ?? undefined,
    timeline: timeline === undefined ? undefined : Number.parseInt(timeline, 16),
    isInRecovery: row['is_in_recovery'] === 't',
    isReadOnly: row['is_read_only'] === 'on',
    database: {
      name: row['datname'] ?? '',
      owner: row['owner'] ?? '',
      encoding: row['encoding'] ?? '',
      locale: {
        provider: row['provider'] ?? '',
        collate: row['datcollate'] ?? '',
        ctype: row['datctype'] ?? '',
        name: row['locale'] ?? undefined,
        version: collation?.['version'] ?? undefined,
      },
    },
    role: {
      name: row['rolname'] ?? '',
      isSuperuser: row['rolsuper'] === 't',
      canReplicate: [row['rolsuper'], row['rolreplication'], row['is_in_group']].includes('t'),
      seesActivity: row['rolsuper'] === 't' || row['sees_activity'] === 't',
      canCreateInDatabase: row['can_create'] === 't',
      replicationGroup: row['replication_group'] ?? undefined,
    },
    settings: await readSettings(session),
  };
}

/** pg_settings gives each in its base unit: kB, MB, ms, s. https://www.postgresql.org/docs/current/view-pg-settings.html */
const SETTINGS_SQL = `
SELECT name, setting, enumvals::text AS choices FROM pg_settings
 WHERE name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'wal_sender_timeout',
                'max_active_replication_origins', 'max_slot_wal_keep_size', 'idle_replication_slot_timeout',
                'logical_decoding_work_mem', 'default_toast_compression')`;
const KIB = 1024;
const MIB = 1024 * 1024;

async function readSettings(session: Session): Promise<ServerSettings> {
  const rows = await session.query(SETTINGS_SQL);
  const settings = new Map(rows.map((row) => [row['name'], row['setting'] ?? '']));
  const number = (name: string): number => Number(settings.get(name) ?? 0);
  const compression = rows.find((row) => row['name'] === 'default_toast_compression');
  const originSetting = settings.has('max_active_replication_origins')
    ? 'max_active_replication_origins'
    : 'max_replication_slots';
  const keepMib = number('max_slot_wal_keep_size');
  return {
    walLevel: settings.get('wal_level') ?? '',
    replicationSlotsMax: number('max_replication_slots'),
    walSendersMax: number('max_wal_senders'),
    originsMax: { setting: originSetting, count: number(originSetting) },
    walSenderTimeoutMs: number('wal_sender_timeout'),
    slotWalKeepBytesMax: keepMib < 0 ? undefined : keepMib * MIB,
    idleSlotTimeoutMs: number('idle_replication_slot_timeout') * 1000,
    logicalDecodingWorkBytes: number('logical_decoding_work_mem') * KIB,
    hasLz4: compression?.['choices']?.includes('lz4') ?? false,
  };
}
