import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { lstat, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';

import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { EmbeddedPostgres } from '#src/provision/embedded-postgres.ts';

import { createServerFolder, startTestServer, type TestVersion } from './postgres.ts';

const run = promisify(execFile);

/** Of the primary, so that a standby can follow it and the folder can be copied while it runs. */
export const PRIMARY_SETTINGS: Readonly<Record<string, string>> = {
  hot_standby: 'on',
  // An embedded server has no archive, so that its WAL has to wait for the standby.
  wal_keep_size: '256MB',
};

export type Standby = AsyncDisposable & {
  readonly server: EmbeddedPostgres;
  /** Until everything that the primary has written by now is replayed. */
  readonly caughtUp: (primary: Session) => Promise<void>;
  /** Until it has the slot for good: only then does the slot outlive a failover. */
  readonly hasSlot: () => Promise<void>;
  readonly promote: () => Promise<void>;
};

/** The name of the physical slot by which a standby follows. */
export const STANDBY_SLOT = 'standby';

/**
 * A physical standby of an embedded server, as pg_basebackup makes one, without that program: the folder
 * is copied between pg_backup_start and pg_backup_stop, and the WAL comes by streaming.
 * https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
 */
export async function startStandby(
  primary: EmbeddedPostgres,
  version: TestVersion,
  settings: Readonly<Record<string, string>> = {},
): Promise<Standby> {
  await using owned = new AsyncDisposableStack();
  const folder = owned.use(await createServerFolder());
  const directory = join(folder.path, 'data');
  await using session = await openSession(primary.endpoint, { applicationName: 'backup' });
  await session.query(`SELECT pg_create_physical_replication_slot('${STANDBY_SLOT}', true)`);
  await copyFolder(session, primary.directory, directory);
  const { host, port, user, password } = primary.endpoint;
  const server = owned.use(
    await startTestServer({
      version,
      directory,
      settings: {
        ...PRIMARY_SETTINGS,
        primary_conninfo: `host=${host} port=${port} user=${user} password=${password} dbname=postgres`,
        primary_slot_name: STANDBY_SLOT,
        hot_standby_feedback: 'on',
        wal_receiver_status_interval: '1s',
        ...(version >= 17 ? { sync_replication_slots: 'on' } : {}),
        ...settings,
      },
    }),
  );
  const standby = owned.use(await openSession(server.endpoint, { applicationName: 'test' }));
  const resources = owned.move();
  return {
    server,
    caughtUp: async (source) => {
      const [head] = await source.query('SELECT pg_current_wal_insert_lsn() AS lsn');
      await untilTrue(standby, `pg_last_wal_replay_lsn() >= '${head?.['lsn']}'::pg_lsn`);
    },
    hasSlot: async () =>
      untilTrue(
        standby,
        `EXISTS (SELECT FROM pg_replication_slots s WHERE slot_name ~ '^understudy_'
                    AND to_jsonb(s) ->> 'synced' = 'true' AND NOT temporary)`,
      ),
    promote: async () => {
      await standby.query('SELECT pg_promote(true, 30)');
    },
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}

async function copyFolder(session: Session, from: string, to: string): Promise<void> {
  const isOld = session.serverVersion < 150_000;
  await session.query(
    isOld ? `SELECT pg_start_backup('test', true, false)` : `SELECT pg_backup_start('test', true)`,
  );
  // Files that go away while they are copied are no harm: their removal is in the WAL.
  await run('cp', ['-a', from, to]).catch(async () => lstat(join(to, 'PG_VERSION')));
  const [backup] = await session.query(
    isOld ? 'SELECT * FROM pg_stop_backup(false, false)' : 'SELECT * FROM pg_backup_stop(false)',
  );
  for (const name of ['postmaster.pid', 'postmaster.opts', 'backup_label']) {
    await rm(join(to, name), { force: true });
  }
  // Logical slots of the primary are of the primary; what the standby has it synchronises itself.
  await run('sh', ['-c', 'rm -rf "$1"/pg_replslot/* "$1"/pg_wal/*', 'sh', to]);
  await run('sh', ['-c', 'mkdir -p "$1"/pg_wal/archive_status && chmod -R go-rwx "$1"', 'sh', to]);
  await writeFile(join(to, 'backup_label'), backup?.['labelfile'] ?? '');
  await writeFile(join(to, 'standby.signal'), '');
  await run('chown', ['-R', '--reference', join(to, 'PG_VERSION'), to]);
}

/** The worker that brings slots over sleeps for up to 30 s. */
async function untilTrue(session: Session, condition: string): Promise<void> {
  await session.query(
    `DO $$ BEGIN
       FOR i IN 1..1800 LOOP
         PERFORM pg_stat_clear_snapshot();
         IF ${condition} THEN RETURN; END IF;
         PERFORM pg_sleep(0.05);
       END LOOP;
       RAISE 'in 90 s it never was';
     END $$`,
  );
}

export type Address = AsyncDisposable & {
  readonly endpoint: Endpoint;
  /** New connections go there, and those to the former server are cut. */
  readonly moveTo: (server: EmbeddedPostgres) => void;
};

/** An address that can be moved from one server to another, as a virtual IP or a proxy is. */
export async function createAddress(server: EmbeddedPostgres): Promise<Address> {
  let behind = server.endpoint;
  const open = new Set<Socket>();
  const listener = createServer((client) => {
    const upstream = connect(behind.port, behind.host);
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      open.add(socket);
      socket.pipe(other);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        open.delete(socket);
        other.destroy();
      });
    }
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('no port to listen on');
  const cut = (): void => {
    for (const socket of open) socket.destroy();
  };
  return {
    endpoint: { ...server.endpoint, port: address.port },
    moveTo: (next) => {
      behind = next.endpoint;
      cut();
    },
    [Symbol.asyncDispose]: async () => {
      cut();
      listener.close();
      await once(listener, 'close');
    },
  };
}
