import { OperatorError } from '#src/lib/errors.ts';

/** The connection parameters of libpq that are known here; another one is refused by name. */
const CONNECTION_PARAMETERS = [
  'host',
  'port',
  'dbname',
  'user',
  'password',
  'sslmode',
  'sslrootcert',
  'sslcert',
  'sslkey',
  'channel_binding',
  'connect_timeout',
  'application_name', // accepted, and replaced: our connections name themselves
] as const;

export type ConnectionParameter = (typeof CONNECTION_PARAMETERS)[number];
export type ConnectionSettings = Partial<Readonly<Record<ConnectionParameter, string>>>;

const URL_START = /^postgres(?:ql)?:\/\//;

/** Whether a text is meant as a connection string, not as the name of a store. */
export function isConnectionString(text: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(text) || text.includes('=');
}

/**
 * The parameters of a `postgres://` URL or of a `key=value` string, as libpq reads them. Empty values
 * count as absent. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
 *
 * Throws CONFIG_INVALID; no message repeats the text, which may hold a password.
 */
export function parseConnectionString(text: string): ConnectionSettings {
  const pairs = URL_START.test(text) ? parseUrl(text) : parseKeyValues(text);
  const settings: Partial<Record<ConnectionParameter, string>> = {};
  for (const [name, value] of pairs) {
    const parameter = CONNECTION_PARAMETERS.find((known) => known === name);
    if (parameter === undefined) throw invalid(`connection parameter ${name} is not supported`);
    if (value.includes('\0')) throw invalid(`connection parameter ${name} holds a zero byte`);
    if (value !== '') settings[parameter] = value;
  }
  return settings;
}

/** `postgres://[user[:password]@][host[:port]][/dbname][?name=value[&…]]` */
function parseUrl(text: string): readonly (readonly [string, string])[] {
  const [, address = '', query = ''] = /^([^?]*)\??(.*)$/s.exec(text.replace(URL_START, '')) ?? [];
  const match =
    /^(?:(?<user>[^:@/]*)(?::(?<password>[^@/]*))?@)?(?<host>\[[^\]]*\]|[^:/@[\]]*)(?::(?<port>[^/:@]*))?(?:\/(?<dbname>.*))?$/s.exec(
      address,
    );
  if (match?.groups === undefined) {
    throw invalid(
      'the URL is malformed; characters such as @ : / ? in a password are written %40 %3A %2F %3F',
    );
  }
  const groups: Readonly<Record<string, string | undefined>> = match.groups;
  const pairs = Object.entries(groups).map(([name, value = '']): [string, string] => {
    const isAddress = name === 'host' && value.startsWith('[');
    return [name, decode(isAddress ? value.slice(1, -1) : value)];
  });
  for (const part of query.split('&').filter((item) => item !== '')) {
    const equals = part.indexOf('=');
    if (equals < 0) throw invalid('a parameter of the URL has no value');
    const name = decode(part.slice(0, equals));
    const value = decode(part.slice(equals + 1));
    // As in libpq, for URLs that were made for JDBC.
    pairs.push(name === 'ssl' && value === 'true' ? ['sslmode', 'require'] : [name, value]);
  }
  return pairs;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid('the URL holds a % that does not begin an escape; write %25');
  }
}

/** `host=localhost password='a \'b\' c'` */
function parseKeyValues(text: string): readonly (readonly [string, string])[] {
  const pairs: [string, string][] = [];
  const pair = /\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)/sy;
  for (let end = 0; text.slice(end).trim() !== ''; end = pair.lastIndex) {
    pair.lastIndex = end;
    const match = pair.exec(text);
    if (match === null) throw invalid('it is neither a postgres:// URL nor a list of key=value');
    const value = match[2] ?? match[3] ?? '';
    pairs.push([match[1] ?? '', value.replaceAll(/\\(.)/gs, '$1')]);
  }
  return pairs;
}

function invalid(problem: string): OperatorError {
  return new OperatorError('CONFIG_INVALID', `the connection string cannot be used: ${problem}`);
}
