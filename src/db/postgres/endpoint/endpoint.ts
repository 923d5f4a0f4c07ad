import { existsSync, readFileSync, statSync } from 'node:fs';
import { homedir, userInfo } from 'node:os';
import { join } from 'node:path';

import type { Endpoint, SslMode } from '#src/core/endpoint.ts';
import { SYSTEM_ROOTS } from '#src/db/postgres/connection/tls.ts';
import { OperatorError } from '#src/lib/errors.ts';

import {
  type ConnectionParameter,
  type ConnectionSettings,
  parseConnectionString,
} from './connection-string.ts';
import { readPasswordFile } from './pgpass.ts';

export type Environment = Readonly<Record<string, string | undefined>>;
export type Warn = (message: string) => void;

/** https://www.postgresql.org/docs/current/libpq-envars.html */
const VARIABLES: Partial<Readonly<Record<ConnectionParameter, string>>> = {
  host: 'PGHOST',
  port: 'PGPORT',
  dbname: 'PGDATABASE',
  user: 'PGUSER',
  password: 'PGPASSWORD',
  sslmode: 'PGSSLMODE',
  sslrootcert: 'PGSSLROOTCERT',
  sslcert: 'PGSSLCERT',
  sslkey: 'PGSSLKEY',
  channel_binding: 'PGCHANNELBINDING',
  connect_timeout: 'PGCONNECT_TIMEOUT',
};

const SSL_MODES: readonly SslMode[] = [
  'disable',
  'allow',
  'prefer',
  'require',
  'verify-ca',
  'verify-full',
];
/** libpq waits for ever by default; we would rather say what is wrong. */
const CONNECT_TIMEOUT_S = 15;
const SOCKET_FOLDERS = ['/var/run/postgresql', '/tmp'];

/**
 * The database that a URL or a key=value string names, completed from the environment, the password
 * file and libpq's defaults, in that order. Certificates are read from their files.
 *
 * Throws CONFIG_INVALID, never with a password in it.
 */
export function resolveEndpoint(
  text: string,
  environment: Environment,
  warn: Warn = () => undefined,
): Endpoint {
  return resolveSettings(parseConnectionString(text), environment, warn);
}

/** As `resolveEndpoint`, from parameters that are already taken apart. */
export function resolveSettings(
  settings: ConnectionSettings,
  environment: Environment,
  warn: Warn = () => undefined,
): Endpoint {
  const find = (parameter: ConnectionParameter): string | undefined =>
    settings[parameter] ?? nonEmpty(environment[VARIABLES[parameter] ?? '']);
  const port = parsePort(find('port') ?? '5432');
  const host = parseHost(find('host') ?? defaultHost(port));
  const user = find('user') ?? defaultUser();
  const database = find('dbname') ?? user;
  const home = nonEmpty(environment['HOME']) ?? homedir();
  const password =
    resolvePassword(settings.password, environment) ??
    readPasswordFile(
      nonEmpty(environment['PGPASSFILE']) ?? join(home, '.pgpass'),
      { host, port, database, user },
      warn,
    );
  return {
    host,
    port,
    database,
    user,
    password,
    ...resolveTls(find, join(home, '.postgresql')),
    channelBinding: parseChannelBinding(find('channel_binding') ?? 'prefer'),
    connectTimeoutMs: parseTimeout(find('connect_timeout')),
  };
}

/** `env:NAME` is the value of a variable, so that a file or a command line needs no secret in it. */
function resolvePassword(given: string | undefined, environment: Environment): string | undefined {
  if (given === undefined) return nonEmpty(environment['PGPASSWORD']);
  if (!given.startsWith('env:')) return given;
  const name = given.slice('env:'.length);
  if (!/^[A-Za-z_]\w*$/.test(name)) throw invalid('password: env: must name a variable');
  const value = nonEmpty(environment[name]);
  if (value === undefined) throw invalid(`password: variable ${name} is not set`);
  return value;
}

type TlsSettings = Pick<Endpoint, 'sslMode' | 'sslRootCert' | 'sslCert' | 'sslKey'>;

/** Files that are not named are looked for where libpq does. */
function resolveTls(
  find: (parameter: ConnectionParameter) => string | undefined,
  folder: string,
): TlsSettings {
  const rootPath = find('sslrootcert');
  const isSystem = rootPath === SYSTEM_ROOTS;
  const modeText = find('sslmode') ?? (isSystem ? 'verify-full' : 'prefer');
  const sslMode = SSL_MODES.find((mode) => mode === modeText);
  if (sslMode === undefined) throw invalid(`sslmode must be one of ${SSL_MODES.join(', ')}`);
  if (isSystem && sslMode !== 'verify-full') {
    throw invalid(`sslrootcert=system needs sslmode=verify-full, not ${sslMode}`);
  }
  if (sslMode === 'disable') {
    return { sslMode, sslRootCert: undefined, sslCert: undefined, sslKey: undefined };
  }
  const sslRootCert = isSystem
    ? SYSTEM_ROOTS
    : readNamed('sslrootcert', rootPath, join(folder, 'root.crt'));
  if (sslRootCert === undefined && sslMode.startsWith('verify')) {
    throw invalid(`sslmode=${sslMode} needs sslrootcert: a file, or system`);
  }
  const sslCert = readNamed('sslcert', find('sslcert'), join(folder, 'postgresql.crt'));
  if (sslCert === undefined) return { sslMode, sslRootCert, sslCert, sslKey: undefined };
  const keyPath = find('sslkey') ?? join(folder, 'postgresql.key');
  checkKeyFile(keyPath);
  return { sslMode, sslRootCert, sslCert, sslKey: readNamed('sslkey', keyPath, keyPath) };
}

function readNamed(
  parameter: string,
  path: string | undefined,
  fallback: string,
): string | undefined {
  if (path === undefined && !existsSync(fallback)) return undefined;
  try {
    return readFileSync(path ?? fallback, 'utf8');
  } catch (cause) {
    throw invalid(`${parameter}: cannot read ${path ?? fallback}`, cause);
  }
}

/** A private key that others may read is refused, as libpq does; root's may be read by a group. */
function checkKeyFile(path: string): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined || process.platform === 'win32') return;
  const forbidden = stats.uid === 0 ? 0o037 : 0o077;
  if ((stats.mode & forbidden) !== 0) throw invalid(`sslkey: others may read ${path} (chmod 0600)`);
}

function parseHost(text: string): string {
  if (text.includes(',')) throw invalid('host: several hosts are not supported');
  return text;
}

function parsePort(text: string): number {
  const port = /^\d{1,5}$/.test(text.trim()) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw invalid('port must be a number from 1 to 65535');
  return port;
}

function parseChannelBinding(text: string): 'disable' | 'prefer' | 'require' {
  if (text === 'disable' || text === 'prefer' || text === 'require') return text;
  throw invalid('channel_binding must be one of disable, prefer, require');
}

/** Seconds, as in libpq: 0 or less waits for ever. */
function parseTimeout(text: string | undefined): number {
  if (text === undefined) return CONNECT_TIMEOUT_S * 1000;
  if (!/^-?\d{1,6}$/.test(text.trim())) throw invalid('connect_timeout must be whole seconds');
  return Math.max(0, Number(text)) * 1000;
}

function defaultHost(port: number): string {
  const folder = SOCKET_FOLDERS.find((path) => existsSync(join(path, `.s.PGSQL.${port}`)));
  return folder ?? 'localhost';
}

function defaultUser(): string {
  try {
    return userInfo().username;
  } catch (cause) {
    throw invalid('user: none was given, and this account has no name', cause);
  }
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

function invalid(problem: string, cause?: unknown): OperatorError {
  return new OperatorError('CONFIG_INVALID', `the connection settings cannot be used: ${problem}`, {
    cause,
  });
}
