import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { inject } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '#src/provision/embedded-postgres.ts';

import { embeddedStandIn, SERVER_PASSWORD, TEST_SETTINGS, type TestVersion } from './servers.ts';

export { TEST_VERSIONS, type TestVersion } from './servers.ts';

const OBJECT_IN_USE = '55006';
/** A walsender that was told to end lets go of its slot when it next looks up. */
const RELEASE_MS_MAX = 20_000;

export type TestDatabase = AsyncDisposable & {
  readonly endpoint: Endpoint;
  /** Open for as long as the database lives. */
  readonly session: Session;
  /** Unique per test; also safe as the name of a slot, publication or role. */
  readonly name: string;
  /** Roles and origins belong to the server, so the test names the ones it makes. */
  readonly dropRoleAfterwards: (role: string) => void;
  readonly dropOriginAfterwards: (origin: string) => void;
};

/** A server of this major that all tests share: never stop it or change its configuration. */
export async function testServer(version: TestVersion): Promise<Endpoint> {
  const endpoint = inject('postgres')[version];
  if (endpoint === undefined) throw new Error(`there is no test server of version ${version}`);
  return {
    ...endpoint,
    sslMode: 'disable',
    sslRootCert: undefined,
    sslCert: undefined,
    sslKey: undefined,
    connectTimeoutMs: 10_000,
  };
}

/** A server of the test's own, to stop, kill or configure. */
export async function startTestServer(options: {
  readonly version: TestVersion;
  readonly settings?: Readonly<Record<string, string>>;
  /** To start again where another server was: a folder that does not exist yet in a `createServerFolder()`. */
  readonly directory?: string;
  readonly port?: number;
}): Promise<EmbeddedPostgres> {
  return startEmbeddedPostgres({
    ...options,
    version: embeddedStandIn(options.version),
    password: SERVER_PASSWORD,
    settings: { ...TEST_SETTINGS, ...options.settings },
  });
}

/** A temporary folder that a server's account can reach, for data that must survive a server. */
export async function createServerFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'understudy-test-'));
  await chmod(path, 0o755);
  return { path, [Symbol.asyncDispose]: async () => rm(path, { recursive: true, force: true }) };
}

/**
 * A fresh database on a real server, dropped when it leaves scope: with what blocks that, which is
 * slots in use, prepared transactions, subscriptions and other sessions.
 */
export async function createTestDatabase(
  version: TestVersion,
  sql?: string,
  options: {
    /** Another than the shared one. */
    readonly server?: Endpoint;
    /** Another than UTF8; text is sorted by bytes then. */
    readonly encoding?: string;
  } = {},
): Promise<TestDatabase> {
  const admin = options.server ?? (await testServer(version));
  const name = `test_${randomBytes(6).toString('hex')}`;
  const { encoding } = options;
  const encoded =
    encoding === undefined
      ? ''
      : `TEMPLATE template0 ENCODING '${encoding}' LC_COLLATE 'C' LC_CTYPE 'C'`;
  await onServer(admin, async (session) => session.query(`CREATE DATABASE ${name} ${encoded}`));
  const endpoint = { ...admin, database: name };
  const roles: string[] = [];
  const origins: string[] = [];
  const dispose = async (session?: Session): Promise<void> => {
    await session?.[Symbol.asyncDispose]();
    const ours = await emptyDatabase(endpoint);
    await onServer(admin, async (root) => {
      await dropSlots(root, name);
      await root.query(`DROP DATABASE ${name} WITH (FORCE)`);
      for (const origin of [...origins, ...ours]) await dropOrigin(root, origin);
      for (const role of roles) await dropRole(root, role);
    });
  };
  try {
    const session = await openSession(endpoint, { applicationName: 'understudy test' });
    if (sql !== undefined) await session.query(sql);
    return {
      endpoint,
      session,
      name,
      dropRoleAfterwards: (role) => roles.push(role),
      dropOriginAfterwards: (origin) => origins.push(origin),
      [Symbol.asyncDispose]: async () => dispose(session),
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** With what it was granted outside of any database, such as parameters. */
async function dropRole(root: Session, role: string): Promise<void> {
  const found = await root.query('SELECT FROM pg_roles WHERE rolname = $1', [role]);
  if (found.length > 0) await root.query(`DROP OWNED BY "${role}"; DROP ROLE "${role}"`);
}

async function onServer<T>(endpoint: Endpoint, work: (session: Session) => Promise<T>): Promise<T> {
  await using session = await openSession(endpoint, { applicationName: 'understudy test admin' });
  return await work(session);
}

/**
 * Prepared transactions and subscriptions can only be removed from inside their database. Returns the origins
 * of the shadows there: they belong to the server, which has room for few.
 */
async function emptyDatabase(endpoint: Endpoint): Promise<readonly string[]> {
  return onServer(endpoint, async (session) => {
    const prepared = await session.query(
      'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()',
    );
    for (const { gid } of prepared) {
      await session.query(`ROLLBACK PREPARED '${gid?.replaceAll("'", "''")}'`);
    }
    const subscriptions = await session.query(
      `SELECT quote_ident(subname) AS name FROM pg_subscription
       WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    for (const { name } of subscriptions) {
      // Without its slot, which may be on a server that is gone.
      await session.query(`ALTER SUBSCRIPTION ${name} DISABLE`);
      await session.query(`ALTER SUBSCRIPTION ${name} SET (slot_name = NONE)`);
      await session.query(`DROP SUBSCRIPTION ${name}`);
    }
    const [ledger] = await session.query(`SELECT to_regclass('understudy.shadow') AS oid`);
    if (ledger?.['oid'] === null) return [];
    const shadows = await session.query('SELECT origin_name FROM understudy.shadow');
    return shadows.flatMap((row) => row['origin_name'] ?? []);
  });
}

async function dropSlots(session: Session, database: string): Promise<void> {
  await untilReleased(async () => {
    await session.query(
      `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
       WHERE database = $1 AND active_pid IS NOT NULL`,
      [database],
    );
    await session.query(
      'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1',
      [database],
    );
  });
}

async function dropOrigin(session: Session, origin: string): Promise<void> {
  await untilReleased(async () =>
    session.query(
      'SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = $1',
      [origin],
    ),
  );
}

async function untilReleased(work: () => Promise<unknown>): Promise<void> {
  const deadline = Date.now() + RELEASE_MS_MAX;
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if (sqlstateOf(error) !== OBJECT_IN_USE || Date.now() > deadline) throw error;
      await wait(50);
    }
  }
}
