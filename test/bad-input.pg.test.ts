import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import type { Endpoint } from '#src/core/endpoint.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { applyFixes, check, named } from './check.ts';
import {
  createServerFolder,
  createTestDatabase,
  startTestServer,
  testServer,
  type TestDatabase,
} from './postgres.ts';

/** What a person reads: `CODE: message`, then what to do. */
async function failureOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => 'no failure',
    (reason: unknown) => reason,
  );
  return error instanceof OperatorError
    ? `${error.code}: ${error.message}\n${error.hint}`
    : String(error);
}

async function connect(endpoint: Endpoint): Promise<void> {
  await using session = await openSession(endpoint, { applicationName: 'understudy test' });
  await session.query('SELECT 1');
}

const SERVER = await testServer(18);
const WHERE = `${SERVER.user}@${SERVER.host}:${SERVER.port}`;

test.each<[what: string, endpoint: Partial<Endpoint>, lines: readonly string[]]>([
  [
    'a wrong password',
    { password: 'my-secret' },
    [`AUTHENTICATION_FAILED: ${WHERE}/postgres refused the connection`, 'PGPASSWORD'],
  ],
  [
    'no password',
    { password: undefined },
    [`AUTHENTICATION_FAILED: ${WHERE}/postgres asks for a password`, '~/.pgpass'],
  ],
  [
    'an unknown role',
    { user: 'nobody_here', password: 'my-secret' },
    ['AUTHENTICATION_FAILED: nobody_here@', 'Check user and password'],
  ],
  [
    'a port where nobody listens',
    { port: 1 },
    [
      `CONNECTION_FAILED: cannot reach ${SERVER.user}@${SERVER.host}:1/`,
      'ECONNREFUSED',
      'firewall',
    ],
  ],
  [
    'a host that does not exist',
    { host: 'nowhere.invalid' },
    [`CONNECTION_FAILED: cannot reach ${SERVER.user}@nowhere.invalid:`, 'Check host'],
  ],
  [
    'a database that does not exist',
    { database: 'nothing_here' },
    [`DATABASE_MISSING: ${WHERE}/nothing_here refused the connection`, 'Create the database'],
  ],
])(
  '%s says who refused whom and what to do, and keeps the secret (I14)',
  async (_, part, lines) => {
    const failure = await failureOf(connect({ ...SERVER, ...part }));
    for (const line of lines) expect(failure).toContain(line);
    expect(failure).not.toContain('my-secret');
  },
);

test('a pattern that matches nothing is named, and an ill-formed one explained', async () => {
  await using source = await createTestDatabase(
    15,
    'CREATE TABLE public.orders (id int PRIMARY KEY)',
  );
  await using target = await createTestDatabase(15);
  const sides = { source: source.endpoint, target: target.endpoint };
  const withTable = async (pattern: string) =>
    failureOf(check(sides, { selection: { ...EVERYTHING, tables: [pattern] } }));
  expect(await withTable('ordres')).toMatch(/^SELECTION_EMPTY: no table matches --table ordres\n/);
  expect(await withTable('"Orders"')).toContain('quote names with capitals');
  expect(await withTable('a.b.c')).toMatch(/^CONFIG_INVALID: pattern "a\.b\.c": .*dot/);
});

async function causes(
  source: TestDatabase,
  target: TestDatabase,
  as: Partial<Endpoint> = {},
): Promise<string> {
  const sides = { source: { ...source.endpoint, ...as }, target: target.endpoint };
  const { findings } = await check(sides);
  return findings
    .filter(({ severity }) => severity === 'refuse')
    .map(({ id, object, cause, fix }) => `${id}: ${object}: ${cause} -> ${fix?.text}`)
    .join('\n');
}

test('a target that is older than the source', async () => {
  await using source = await createTestDatabase(18);
  await using target = await createTestDatabase(14);
  expect(await causes(source, target)).toBe(
    "target-older: server version 14: the target's version 14 is older than the source's 18, " +
      'whose definitions it may not understand -> Use a target of version 18 or newer.',
  );
});

test('a target that is not empty', async () => {
  await using source = await createTestDatabase(14, 'CREATE TABLE public.t (id int PRIMARY KEY)');
  await using target = await createTestDatabase(14, 'CREATE TABLE public.t (id int)');
  expect(await causes(source, target)).toBe(
    'target-object-exists: table "public"."t": the target has an object of this name already, ' +
      "and the source's cannot be created beside it -> " +
      'CREATE SCHEMA IF NOT EXISTS "before_understudy_public"; ' +
      'ALTER TABLE "public"."t" SET SCHEMA "before_understudy_public"',
  );
});

test('a table without a key', async () => {
  await using source = await createTestDatabase(17, 'CREATE TABLE public.log (line text)');
  await using target = await createTestDatabase(17);
  expect(await causes(source, target)).toMatch(
    /^no-key: table "public"\."log": it has no primary key .* -> ALTER TABLE "public"\."log" REPLICA IDENTITY FULL$/,
  );
});

test('a missing privilege', async () => {
  await using source = await createTestDatabase(16, 'CREATE TABLE public.t (id int PRIMARY KEY)');
  await using target = await createTestDatabase(16);
  const user = `${source.name}_reader`;
  await source.session.query(`CREATE ROLE ${user} LOGIN REPLICATION PASSWORD 'zqpass';
    GRANT CREATE ON DATABASE ${source.name} TO ${user}`);
  source.dropRoleAfterwards(user);
  const text = await causes(source, target, { user, password: 'zqpass' });
  expect(text).toContain(
    `select-privilege: table "public"."t": role "${user}" may not read it -> ` +
      `GRANT USAGE ON SCHEMA "public" TO "${user}"; GRANT SELECT ON "public"."t" TO "${user}"`,
  );
  await source.session.query(`DROP OWNED BY ${user}`);
});

/** What ALTER SYSTEM wrote, for the next start: options of the command line would win over it. */
async function systemSettings(session: Session): Promise<Readonly<Record<string, string>>> {
  const rows = await session.query(
    `SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'`,
  );
  return Object.fromEntries(rows.map((row) => [row['name'] ?? '', row['setting'] ?? '']));
}

test('a server that cannot decode and has no free slot passes after the fixes and a restart', async () => {
  await using folder = await createServerFolder();
  const place = { version: 16, directory: join(folder.path, 'data') } as const;
  const settings = { wal_level: 'replica', max_replication_slots: '1', max_wal_senders: '1' };
  await using target = await createTestDatabase(16);
  let fixed: Readonly<Record<string, string>>;
  {
    await using server = await startTestServer({ ...place, settings });
    await using session = await openSession(server.endpoint, {
      applicationName: 'understudy test',
    });
    await session.query(`SELECT pg_create_physical_replication_slot('theirs')`);
    const before = await check({ source: server.endpoint, target: target.endpoint });
    expect(named(before)).toEqual([
      'replication-slots setting max_replication_slots',
      'wal-level setting wal_level',
      'wal-senders setting max_wal_senders',
    ]);
    expect(before.findings[0]?.cause).toContain('it is replica');
    // Without --follow there is no slot, and none of this matters.
    const sides = { source: server.endpoint, target: target.endpoint };
    expect(named(await check(sides, { isFollowed: false }))).toEqual([]);
    await applyFixes(before, { source: session, target: target.session });
    fixed = await systemSettings(session);
    await server.stop();
  }
  await using server = await startTestServer({ ...place, settings: { ...settings, ...fixed } });
  expect(named(await check({ source: server.endpoint, target: target.endpoint }))).toEqual([]);
});

test.each([
  [17, 'max_replication_slots'],
  [18, 'max_active_replication_origins'],
] as const)(
  'a target of version %i without a free replication origin',
  async (version, setting) => {
    await using source = await createTestDatabase(version);
    await using server = await startTestServer({ version, settings: { [setting]: '0' } });
    await using session = await openSession(server.endpoint, {
      applicationName: 'understudy test',
    });
    const result = await check({ source: source.endpoint, target: server.endpoint });
    expect(named(result)).toEqual([`target-origin-free setting ${setting}`]);
    await applyFixes(result, { source: source.session, target: session });
    expect(await systemSettings(session)).toEqual({ [setting]: '1' });
  },
);

test('a standby is neither a source nor a target', async () => {
  await using folder = await createServerFolder();
  const place = { version: 17, directory: join(folder.path, 'data') } as const;
  await using other = await createTestDatabase(17);
  {
    await using primary = await startTestServer(place);
    await primary.stop();
  }
  await writeFile(join(place.directory, 'standby.signal'), '');
  await using standby = await startTestServer(place);
  const { endpoint } = standby;
  expect(named(await check({ source: endpoint, target: other.endpoint }))).toEqual([
    'source-standby server',
  ]);
  expect(named(await check({ source: other.endpoint, target: endpoint }))).toEqual([
    'target-standby server',
  ]);
});

test('settings that would end the stream early are warnings', async () => {
  await using server = await startTestServer({
    version: 18,
    settings: {
      max_slot_wal_keep_size: '1GB',
      wal_sender_timeout: '5s',
      idle_replication_slot_timeout: '1h',
      logical_decoding_work_mem: '1MB',
    },
  });
  await using target = await createTestDatabase(18);
  const result = await check({ source: server.endpoint, target: target.endpoint });
  expect(named(result)).toEqual([]);
  expect(named(result, 'warn')).toEqual([
    'no-tables selection',
    'slot-idle-timeout setting idle_replication_slot_timeout',
    'slot-wal-limit setting max_slot_wal_keep_size',
    'wal-sender-timeout setting wal_sender_timeout',
  ]);
  expect(named(result, 'info')).toContain('decoding-memory setting logical_decoding_work_mem');
});
