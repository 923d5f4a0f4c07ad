import { chmod, chown, copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';

import type { Endpoint, SslMode } from '#src/core/endpoint.ts';
import type { EmbeddedPostgres } from '#src/provision/embedded-postgres.ts';
import { startTestServer, type TestVersion } from '#test/postgres.ts';
import { SERVER_PASSWORD } from '#test/servers.ts';

import { openSession } from './session.ts';
import { openWireConnection } from './wire-connection.ts';

const OPTIONS = { applicationName: 'understudy test' };
const CERTIFICATES = join(import.meta.dirname, '../../../../test/tls');
const ENCRYPTED = 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()';

/** Who may come how; the roles are named for it. */
const HBA = `
host      all  postgres    all  scram-sha-256
host      all  md5_role    all  md5
host      all  clear_role  all  password
host      all  trust_role  all  trust
hostssl   all  tls_role    all  scram-sha-256
hostnossl all  plain_role  all  scram-sha-256
hostssl   all  tls_client  all  cert
`;

async function certificate(name: string): Promise<string> {
  return readFile(join(CERTIFICATES, name), 'utf8');
}

async function startTlsServer(version: TestVersion, name: string): Promise<EmbeddedPostgres> {
  const server = await startTestServer({ version });
  const { uid, gid } = await stat(server.directory);
  for (const file of ['ca.crt', `${name}.crt`, `${name}.key`]) {
    const path = join(server.directory, file);
    await copyFile(join(CERTIFICATES, file), path);
    await chown(path, uid, gid);
    // A checkout does not keep permissions, and the server insists on them.
    await chmod(path, 0o600);
  }
  const hba = join(server.directory, 'pg_hba.conf');
  await writeFile(hba, HBA);
  await using admin = await openSession(server.endpoint, OPTIONS);
  await admin.query(`SET password_encryption = 'md5'; CREATE ROLE md5_role LOGIN PASSWORD '${SERVER_PASSWORD}';
    SET password_encryption = 'scram-sha-256'`);
  for (const role of ['clear_role', 'tls_role', 'plain_role', 'trust_role', 'tls_client']) {
    await admin.query(`CREATE ROLE ${role} LOGIN PASSWORD '${SERVER_PASSWORD}'`);
  }
  // NFKC makes another text of it: both sides must hash that one.
  await admin.query(`CREATE ROLE "odd, =role" LOGIN PASSWORD 'ﬁ\u00ad½ ö'`);
  await writeFile(hba, `${HBA}host all "odd, =role" all scram-sha-256\n`);
  await admin.query(`ALTER SYSTEM SET ssl_ca_file = 'ca.crt'`);
  await admin.query(`ALTER SYSTEM SET ssl_cert_file = '${name}.crt'`);
  await admin.query(`ALTER SYSTEM SET ssl_key_file = '${name}.key'`);
  await admin.query(`ALTER SYSTEM SET ssl = on`);
  await admin.query('SELECT pg_reload_conf()');
  const secure = { ...server.endpoint, host: 'localhost', sslMode: 'require' } as const;
  await vi.waitFor(async () => expect(await openBoth(secure)).toEqual(both('t')), 10_000);
  return server;
}

/** Whether each kind of connection is encrypted: t, f, or the code of its refusal. */
async function openBoth(endpoint: Endpoint): Promise<{ wire: unknown; session: unknown }> {
  const wire = async (): Promise<unknown> => {
    await using connection = await openWireConnection(endpoint, OPTIONS);
    const [result] = await connection.query(ENCRYPTED);
    return result?.rows[0]?.[0];
  };
  const session = async (): Promise<unknown> => {
    await using opened = await openSession(endpoint, OPTIONS);
    const [row] = await opened.query(ENCRYPTED);
    return row?.['ssl'];
  };
  return { wire: await wire().catch(codeOf), session: await session().catch(codeOf) };
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : error;
}

const both = (outcome: string): unknown => ({ wire: outcome, session: outcome });

async function verify(
  endpoint: Endpoint,
  sslMode: SslMode,
  sslRootCert: string,
  host: string,
): Promise<unknown> {
  return openBoth({ ...endpoint, sslMode, sslRootCert, host });
}

describe.each([14, 18] as const)('against a TLS server of %i', (version) => {
  let server: EmbeddedPostgres;
  let endpoint: Endpoint;
  beforeAll(async () => {
    server = await startTlsServer(version, 'server');
    endpoint = { ...server.endpoint, host: 'localhost' };
  });
  afterAll(async () => server[Symbol.asyncDispose]());

  test.each<[SslMode, string, string]>([
    ['disable', 'plain_role', 'f'],
    ['disable', 'tls_role', 'AUTHENTICATION_FAILED'],
    ['allow', 'plain_role', 'f'],
    ['allow', 'tls_role', 't'],
    ['allow', 'postgres', 'f'],
    ['prefer', 'postgres', 't'],
    ['prefer', 'tls_role', 't'],
    ['prefer', 'plain_role', 'f'],
    ['require', 'tls_role', 't'],
    ['require', 'plain_role', 'AUTHENTICATION_FAILED'],
    ['require', 'md5_role', 't'],
    ['require', 'clear_role', 't'],
    ['require', 'odd, =role', 't'],
    ['disable', 'odd, =role', 'f'],
    ['disable', 'md5_role', 'f'],
    ['disable', 'clear_role', 'f'],
    ['disable', 'trust_role', 'f'],
    ['verify-full', 'tls_role', 'TLS_FAILED'],
  ])('sslmode=%s as %s: %s', async (sslMode, user, outcome) => {
    const password = user === 'odd, =role' ? 'ﬁ\u00ad½ ö' : SERVER_PASSWORD;
    const noPassword = user === 'trust_role' ? { password: undefined } : { password };
    expect(await openBoth({ ...endpoint, sslMode, user, ...noPassword })).toEqual(both(outcome));
  });

  test('a chain is verified whenever a root is given, the name only by verify-full', async () => {
    const ca = await certificate('ca.crt');
    const stranger = await certificate('stranger.crt');
    expect(await verify(endpoint, 'verify-full', ca, 'localhost')).toEqual(both('t'));
    expect(await verify(endpoint, 'verify-full', ca, '127.0.0.1')).toEqual(both('TLS_FAILED'));
    expect(await verify(endpoint, 'verify-ca', ca, '127.0.0.1')).toEqual(both('t'));
    expect(await verify(endpoint, 'require', ca, '127.0.0.1')).toEqual(both('t'));
    expect(await verify(endpoint, 'verify-ca', stranger, 'localhost')).toEqual(both('TLS_FAILED'));
    expect(await verify(endpoint, 'require', stranger, 'localhost')).toEqual(both('TLS_FAILED'));
    expect(await verify(endpoint, 'verify-full', 'system', 'localhost')).toEqual(
      both('TLS_FAILED'),
    );
    // As in libpq: a certificate that is not trusted is as good as no TLS.
    expect(await verify(endpoint, 'prefer', stranger, 'localhost')).toEqual(both('f'));
    expect(await verify(endpoint, 'require', 'not a certificate', 'localhost')).toEqual(
      both('TLS_FAILED'),
    );
  });

  test('a login that must be bound to the channel is refused where it cannot be', async () => {
    const bound = { ...endpoint, channelBinding: 'require', sslMode: 'require' } as const;
    expect(await openBoth(bound)).toEqual(both('t'));
    for (const user of ['md5_role', 'clear_role', 'trust_role']) {
      expect(await openBoth({ ...bound, user })).toEqual(both('AUTHENTICATION_FAILED'));
    }
    expect(await openBoth({ ...bound, sslMode: 'disable' })).toEqual(both('AUTHENTICATION_FAILED'));
    expect(await openBoth({ ...bound, channelBinding: 'disable' })).toEqual(both('t'));
  });

  test('a client certificate is presented where the server asks for one', async () => {
    const user = {
      ...endpoint,
      user: 'tls_client',
      sslMode: 'require',
      password: undefined,
    } as const;
    const sslCert = await certificate('client.crt');
    const sslKey = await certificate('client.key');
    expect(await openBoth({ ...user, sslCert, sslKey })).toEqual(both('t'));
    const refused = await openBoth(user);
    expect(refused.wire).toMatch(/AUTHENTICATION_FAILED|TLS_FAILED/);
    expect(refused.session).toBe(refused.wire);
  });

  test('wrong passwords and unknown databases have their own codes, over TLS, too', async () => {
    for (const sslMode of ['disable', 'require'] as const) {
      expect(await openBoth({ ...endpoint, sslMode, password: 'wrong' })).toEqual(
        both('AUTHENTICATION_FAILED'),
      );
      expect(await openBoth({ ...endpoint, sslMode, password: undefined })).toEqual(
        both('AUTHENTICATION_FAILED'),
      );
      expect(await openBoth({ ...endpoint, sslMode, database: 'nowhere' })).toEqual(
        both('DATABASE_MISSING'),
      );
    }
    const md5 = { ...endpoint, user: 'md5_role', password: 'wrong', sslMode: 'disable' } as const;
    expect(await openBoth(md5)).toEqual(both('AUTHENTICATION_FAILED'));
  });

  test('a cancel request is encrypted, too, and a large result passes', async () => {
    const secure = { ...endpoint, sslMode: 'require' } as const;
    await using connection = await openWireConnection(secure, OPTIONS);
    await using session = await openSession(server.endpoint, OPTIONS);
    const state = `SELECT wait_event FROM pg_stat_activity WHERE pid = ${connection.processId}`;
    const sleeping = connection.query('SELECT pg_sleep(60)');
    const outcome = sleeping.catch((error: unknown) => error);
    await expect
      .poll(async () => session.query(state), { timeout: 20_000 })
      .toEqual([{ wait_event: 'PgSleep' }]);
    await connection.cancel();
    expect(await outcome).toMatchObject({ detail: { sqlstate: '57014' } });
    const [result] = await connection.query(
      `SELECT repeat('x', 1000) FROM generate_series(1, 20000)`,
    );
    expect(result?.rows).toHaveLength(20_000);
  });
});

test('a certificate without a hash function is met without channel binding (trap 37)', async () => {
  await using server = await startTlsServer(18, 'ed25519');
  const endpoint = { ...server.endpoint, host: 'localhost', sslMode: 'require' } as const;
  expect(await openBoth(endpoint)).toEqual(both('t'));
  const sslRootCert = await certificate('ed25519.crt');
  expect(await openBoth({ ...endpoint, sslMode: 'verify-full', sslRootCert })).toEqual(both('t'));
});
