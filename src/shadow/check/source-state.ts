import { quoteIdentifier, quoteLiteral } from '#src/core/table.ts';

import { finding } from './checks.ts';
import { byOperator, type CheckContext, onSource, field } from './context.ts';
import { checkFailover } from './failover.ts';
import type { Finding } from './finding.ts';

/** One slot for the shadow and one for a verification; a resumed shadow has the first already. */
const SLOTS_NEEDED = 2;
const SENDER_TIMEOUT_MS_MIN = 10_000;
const DECODING_BYTES_MIN = 64 * 1024 * 1024;

/** The source's configuration, and what is going on in it. */
export async function checkSourceState(context: CheckContext): Promise<readonly Finding[]> {
  const findings = [...checkDatabase(context)];
  if (context.isFollowed) {
    findings.push(
      ...checkSettings(context),
      ...(await checkFreeSlots(context)),
      ...(await checkPrepared(context)),
      ...(await checkTransactions(context)),
      ...(await checkFailover(context)),
    );
  }
  return findings;
}

function checkDatabase({ sourceServer, isFollowed }: CheckContext): readonly Finding[] {
  const { database } = sourceServer;
  const object = `database ${quoteIdentifier(database.name)}`;
  const findings: Finding[] = [];
  if (sourceServer.isInRecovery) {
    findings.push(
      finding(
        'source-standby',
        'server',
        'the source is a standby: no publication can be made on it, and its recovery may cancel a long copy',
        byOperator("Name the primary's address as the source."),
      ),
    );
  } else if (sourceServer.isReadOnly && isFollowed) {
    findings.push(
      finding(
        'source-read-only',
        object,
        'transactions are read-only by default, so no publication can be made',
        onSource(
          `BEGIN READ WRITE; ALTER ROLE ${quoteIdentifier(sourceServer.role.name)} IN DATABASE ${quoteIdentifier(database.name)} SET default_transaction_read_only = off; COMMIT`,
        ),
      ),
    );
  }
  return findings;
}

function checkSettings({ sourceServer, sourceWalBytesMax }: CheckContext): readonly Finding[] {
  const { settings } = sourceServer;
  const findings: Finding[] = [];
  if (settings.walLevel !== 'logical') {
    findings.push(
      finding(
        'wal-level',
        'setting wal_level',
        `it is ${settings.walLevel}, and changes can be followed only with logical; a restart of the server makes it effective`,
        onSource(`ALTER SYSTEM SET wal_level = 'logical'`),
      ),
    );
  }
  const keepBytes = settings.slotWalKeepBytesMax;
  if (keepBytes !== undefined && keepBytes < sourceWalBytesMax) {
    findings.push(
      finding(
        'slot-wal-limit',
        'setting max_slot_wal_keep_size',
        `the server gives a slot up at ${mebibytes(keepBytes)} of WAL, before our budget of ${mebibytes(sourceWalBytesMax)} is reached`,
        onSource(
          `ALTER SYSTEM SET max_slot_wal_keep_size = '${mebibytes(sourceWalBytesMax)}'; SELECT pg_reload_conf()`,
        ),
      ),
    );
  }
  if (settings.idleSlotTimeoutMs > 0) {
    findings.push(
      finding(
        'slot-idle-timeout',
        'setting idle_replication_slot_timeout',
        `the server gives up a slot that nobody read for ${settings.idleSlotTimeoutMs / 1000} s, so a shadow that is stopped for longer must be made again`,
        onSource(`ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()`),
      ),
    );
  }
  if (settings.walSenderTimeoutMs > 0 && settings.walSenderTimeoutMs < SENDER_TIMEOUT_MS_MIN) {
    findings.push(
      finding(
        'wal-sender-timeout',
        'setting wal_sender_timeout',
        `the server ends a connection that is silent for ${settings.walSenderTimeoutMs} ms, which a slow network reaches`,
        onSource(`ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf()`),
      ),
    );
  }
  if (settings.logicalDecodingWorkBytes < DECODING_BYTES_MIN) {
    findings.push(
      finding(
        'decoding-memory',
        'setting logical_decoding_work_mem',
        `transactions larger than ${mebibytes(settings.logicalDecodingWorkBytes)} are sent in pieces before they commit`,
      ),
    );
  }
  return findings;
}

const FREE_SLOTS_SQL = `
SELECT (SELECT count(*) FROM pg_replication_slots) AS slots,
       (SELECT count(*) FROM pg_stat_get_wal_senders()) AS senders`;

async function checkFreeSlots(context: CheckContext): Promise<readonly Finding[]> {
  const { source, sourceServer, resumedShadowId } = context;
  const [row] = await source.query(FREE_SLOTS_SQL);
  const needed = resumedShadowId === undefined ? SLOTS_NEEDED : SLOTS_NEEDED - 1;
  const { replicationSlotsMax, walSendersMax } = sourceServer.settings;
  const findings: Finding[] = [];
  for (const [id, setting, max, used] of [
    ['replication-slots', 'max_replication_slots', replicationSlotsMax, Number(row?.['slots'])],
    ['wal-senders', 'max_wal_senders', walSendersMax, Number(row?.['senders'])],
  ] as const) {
    const free = Math.max(0, max - used);
    if (free >= needed) continue;
    findings.push(
      finding(
        id,
        `setting ${setting}`,
        `${used} of ${max} are in use, ${free} free, and ${needed} are needed: to follow, and to verify while following; a restart of the server makes a change effective`,
        onSource(`ALTER SYSTEM SET ${setting} = ${Math.max(used, max) + needed}`),
      ),
    );
  }
  return findings;
}

/** A new slot waits for every transaction of the cluster that may write, prepared ones included (trap 3). */
const PREPARED_SQL = `
SELECT gid, database, extract(epoch FROM now() - prepared)::bigint AS age_s
  FROM pg_prepared_xacts
 WHERE prepared < now() - $1::int * interval '1 second'
 ORDER BY prepared`;

async function checkPrepared({
  source,
  ages,
  resumedShadowId,
}: CheckContext): Promise<readonly Finding[]> {
  if (resumedShadowId !== undefined) return [];
  const rows = await source.query(PREPARED_SQL, [ages.preparedSMax]);
  return rows.map((row) => {
    const gid = quoteLiteral(field(row, 'gid')).trim();
    return finding(
      'prepared-transaction',
      `prepared transaction ${gid} in database ${quoteIdentifier(field(row, 'database'))}`,
      `it was prepared ${field(row, 'age_s')} s ago, and no slot can be made before it ends`,
      onSource(`COMMIT PREPARED ${gid} -- or ROLLBACK PREPARED ${gid}`),
    );
  });
}

const TRANSACTIONS_SQL = `
SELECT pid, datname, usename, extract(epoch FROM now() - xact_start)::bigint AS age_s
  FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
   AND xact_start < now() - $1::int * interval '1 second'
 ORDER BY xact_start`;

async function checkTransactions(context: CheckContext): Promise<readonly Finding[]> {
  const { source, sourceServer, ages, resumedShadowId } = context;
  if (resumedShadowId !== undefined) return [];
  const rows = await source.query(TRANSACTIONS_SQL, [ages.openSMax]);
  const findings = rows.map((row) =>
    finding(
      'long-transaction',
      `process ${field(row, 'pid')} of role ${quoteIdentifier(field(row, 'usename'))} in database ${quoteIdentifier(field(row, 'datname'))}`,
      `its write transaction is open for ${field(row, 'age_s')} s, and no slot can be made before it ends`,
      onSource(`SELECT pg_terminate_backend(${field(row, 'pid')})`),
    ),
  );
  if (!sourceServer.role.seesActivity) {
    const role = quoteIdentifier(sourceServer.role.name);
    findings.push(
      finding(
        'activity-hidden',
        `role ${role}`,
        'it cannot see which transactions of other roles a new slot would wait for',
        onSource(`GRANT pg_read_all_stats TO ${role}`),
      ),
    );
  }
  return findings;
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / (1024 * 1024))}MB`;
}
