import { readFileSync, statSync } from 'node:fs';

export type PasswordKey = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
};

/**
 * The password of the first line of a password file that matches, or undefined. A file that others may
 * read is ignored with a warning, as libpq does. https://www.postgresql.org/docs/current/libpq-pgpass.html
 */
export function readPasswordFile(
  path: string,
  key: PasswordKey,
  warn: (message: string) => void,
): string | undefined {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  if (!stats.isFile()) {
    warn(`password file ${path} is not a plain file and was ignored`);
    return undefined;
  }
  if (process.platform !== 'win32' && (stats.mode & 0o077) !== 0) {
    warn(`password file ${path} was ignored: others may read it (chmod 0600)`);
    return undefined;
  }
  return findPassword(readFileSync(path, 'utf8'), key);
}

/** Lines of `host:port:database:user:password`; `*` matches anything, `\:` and `\\` are escapes. */
export function findPassword(text: string, key: PasswordKey): string | undefined {
  // A Unix-domain socket's folder is looked up as localhost.
  const host = key.host.startsWith('/') ? ['localhost', key.host] : [key.host];
  const wanted = [host, [String(key.port)], [key.database], [key.user]];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith('#')) continue;
    const match =
      /^((?:[^:\\]|\\.)*):((?:[^:\\]|\\.)*):((?:[^:\\]|\\.)*):((?:[^:\\]|\\.)*):(.*)$/.exec(line);
    if (match === null) continue;
    const fields = match.slice(1, 5);
    const isMatch = fields.every(
      (field, i) => field === '*' || wanted[i]?.includes(unescape(field)) === true,
    );
    if (isMatch) return unescape(match[5] ?? '');
  }
  return undefined;
}

function unescape(field: string): string {
  return field.replaceAll(/\\(.)/g, '$1');
}
