import { embeddedVersions } from '#src/provision/embedded-postgres.ts';

/** The majors that we claim to work with. */
export const TEST_VERSIONS = [14, 15, 16, 17, 18] as const;
export type TestVersion = (typeof TEST_VERSIONS)[number];

/**
 * The major that stands in for one that npm has no package of for this platform: the next newer one
 * (Postgres 14 is there for Linux on x64 only).
 */
export function embeddedStandIn(version: TestVersion): TestVersion {
  const installed = embeddedVersions();
  return TEST_VERSIONS.find((major) => major >= version && installed.includes(major)) ?? version;
}

/** Of servers that tests start; carries the marker of test/output-scan.ts. */
export const SERVER_PASSWORD = 'zqpass-server';

/** Quick to start and to write, small in memory, room for every test at once. */
export const TEST_SETTINGS: Readonly<Record<string, string>> = {
  fsync: 'off',
  full_page_writes: 'off',
  shared_buffers: '32MB',
  max_connections: '200',
  max_replication_slots: '60',
  max_wal_senders: '60',
  max_prepared_transactions: '10',
};

/** What a worker needs to reach a shared server; plain data, since it crosses processes. */
export type ServerAddress = {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
};

/** `14=postgres://user:password@host:port/database,15=…`: servers that run already. */
export function parseTestServers(
  text: string | undefined,
): Partial<Record<TestVersion, ServerAddress>> {
  const servers: Partial<Record<TestVersion, ServerAddress>> = {};
  for (const item of (text ?? '').split(',').filter((part) => part !== '')) {
    const [, major, address] = /^(\d+)=(.*)$/.exec(item.trim()) ?? [];
    const version = TEST_VERSIONS.find((known) => String(known) === major);
    if (version === undefined || address === undefined) {
      throw new Error('UNDERSTUDY_TEST_POSTGRES is not a list of MAJOR=URL');
    }
    const url = new URL(address);
    servers[version] = {
      host: url.hostname,
      port: Number(url.port || 5432),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      database: url.pathname.slice(1) || 'postgres',
    };
  }
  return servers;
}
