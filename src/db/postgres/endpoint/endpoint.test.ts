import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { resolveEndpoint } from './endpoint.ts';
import { findPassword } from './pgpass.ts';
import { loadFilters, loadStores, resolveStore } from './stores-file.ts';

async function makeFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'understudy-test-'));
  return { path, [Symbol.asyncDispose]: async () => rm(path, { recursive: true }) };
}

const refusal = (problem: string): unknown =>
  expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining(problem) });

test('a URL wins over the environment, and the environment over the defaults', async () => {
  await using home = await makeFolder();
  const environment = {
    HOME: home.path,
    PGUSER: 'app',
    PGHOST: 'db',
    PGPORT: '7',
    PGPASSWORD: 'pw',
  };
  expect(resolveEndpoint('postgres://', environment)).toEqual({
    host: 'db',
    port: 7,
    database: 'app',
    user: 'app',
    password: 'pw',
    sslMode: 'prefer',
    channelBinding: 'prefer',
    sslRootCert: undefined,
    sslCert: undefined,
    sslKey: undefined,
    connectTimeoutMs: 15_000,
  });
  expect(
    resolveEndpoint(
      'postgres://me:own@[::1]:8/shop?sslmode=disable&connect_timeout=3',
      environment,
    ),
  ).toMatchObject({
    host: '::1',
    port: 8,
    database: 'shop',
    user: 'me',
    password: 'own',
    sslMode: 'disable',
    connectTimeoutMs: 3000,
  });
});

test('a password can be the value of a variable, which must be set', () => {
  const text = 'postgres://u:env:PRODUCTION@h/d';
  expect(resolveEndpoint('user=u password=env:PRODUCTION', { PRODUCTION: 'pw' }).password).toBe(
    'pw',
  );
  expect(resolveEndpoint(text, { PRODUCTION: 'pw' }).password).toBe('pw');
  expect(() => resolveEndpoint(text, {})).toThrow(refusal('variable PRODUCTION is not set'));
});

test.each([
  ['postgres://h:0', 'port'],
  ['postgres://h:65536', 'port'],
  ['postgres://h:12x', 'port'],
  ['postgres://a,b/d', 'several hosts'],
  ['postgres://h?sslmode=on', 'sslmode must be one of disable'],
  ['postgres://h?sslmode=verify-full', 'needs sslrootcert'],
  ['postgres://h?sslmode=require&sslrootcert=system', 'needs sslmode=verify-full'],
  ['postgres://h?sslrootcert=/nowhere/root.crt', 'cannot read /nowhere/root.crt'],
  ['postgres://h?connect_timeout=soon', 'connect_timeout'],
])('%s is refused', (text, problem) => {
  expect(() => resolveEndpoint(text, { HOME: '/nowhere' })).toThrow(refusal(problem));
});

test('certificates are read from named files, or from where libpq looks', async () => {
  await using home = await makeFolder();
  const key = join(home.path, 'own.key');
  await writeFile(join(home.path, 'own.crt'), 'certificate');
  await writeFile(key, 'key', { mode: 0o600 });
  const text = `postgres://u@h?sslcert=${join(home.path, 'own.crt')}&sslkey=${key}`;
  expect(resolveEndpoint(text, { HOME: home.path })).toMatchObject({
    sslCert: 'certificate',
    sslKey: 'key',
    sslRootCert: undefined,
  });
  await chmod(key, 0o644);
  expect(() => resolveEndpoint(text, { HOME: home.path })).toThrow(refusal('others may read'));
  expect(resolveEndpoint('postgres://h?sslrootcert=system', { HOME: home.path })).toMatchObject({
    sslMode: 'verify-full',
    sslRootCert: 'system',
  });
});

test('the password file is asked last, and ignored when others may read it', async () => {
  await using home = await makeFolder();
  const file = join(home.path, '.pgpass');
  await writeFile(file, 'h:5432:*:u:from file\n', { mode: 0o600 });
  const environment = { HOME: home.path };
  expect(resolveEndpoint('postgres://u@h/d', environment).password).toBe('from file');
  expect(resolveEndpoint('postgres://u:own@h/d', environment).password).toBe('own');
  expect(resolveEndpoint('postgres://other@h/d', environment).password).toBeUndefined();
  await chmod(file, 0o640);
  const warnings: string[] = [];
  const warn = (message: string): unknown => warnings.push(message);
  expect(resolveEndpoint('postgres://u@h/d', environment, warn).password).toBeUndefined();
  expect(warnings).toEqual([`password file ${file} was ignored: others may read it (chmod 0600)`]);
  expect(
    resolveEndpoint('postgres://u@h/d', { HOME: '/nowhere', PGPASSFILE: file }, warn).password,
  ).toBeUndefined();
});

test('lines of a password file match by wildcards and escapes, the first one wins', () => {
  const text = String.raw`# h:1:d:u:commented
not a line
h:2:d:u:wrong port
\:\:1:1:d:u\\x:by address
*:1:d:u:any: host\\
h:1:d:u:later`;
  const key = { host: 'h', port: 1, database: 'd', user: 'u' };
  expect(findPassword(text, key)).toBe('any: host\\');
  expect(findPassword(text, { ...key, host: '::1', user: 'u\\x' })).toBe('by address');
  expect(findPassword(text, { ...key, database: 'other' })).toBeUndefined();
  expect(findPassword('localhost:1:d:u:socket', { ...key, host: '/tmp' })).toBe('socket');
});

test('a store is found by name in a YAML file, and its keys win over its URL', async () => {
  await using folder = await makeFolder();
  const storesPath = join(folder.path, 'stores.yaml');
  await writeFile(
    storesPath,
    `stores:
  production:
    url: postgres://reader@db.example.com/shop
    port: 6432
    password: env:PRODUCTION_PASSWORD
    sslmode: require
  shadow: postgres://localhost/shadow
`,
  );
  const environment = { HOME: folder.path, PRODUCTION_PASSWORD: 'pw', PGUSER: 'me' };
  expect(resolveStore('production', { environment, storesPath })).toMatchObject({
    host: 'db.example.com',
    port: 6432,
    database: 'shop',
    password: 'pw',
    sslMode: 'require',
  });
  expect(resolveStore('shadow', { environment, storesPath })).toMatchObject({ user: 'me' });
  expect(resolveStore('postgres://h/d', { environment, storesPath })).toMatchObject({ host: 'h' });
  expect(() => resolveStore('prod', { environment, storesPath })).toThrow(
    refusal(`no store 'prod', only production, shadow`),
  );
  expect(() => resolveStore('production', { environment })).toThrow(refusal('no --config file'));
});

test.each([
  ['stores:\n  a: {url: postgres://h, pasword: hunter2}\n', 'pasword', 'line 2, column 6'],
  ['stores:\n  a:\n    port: [hunter2]\n', 'stores: a: port', 'line 3, column 11'],
  ['stores:\n  a: {password: "hunter2\n  b: 1\n', 'is not YAML', 'line'],
  ['stores:\n  a: x\n  a: hunter2\n', 'duplicate key', 'line 3, column 3'],
  ['stores:\n\ta: hunter2\n', 'is not YAML', 'line 2'],
  ['store: hunter2\n', 'stores', 'line 1'],
  ['- hunter2\n', 'expected object', 'line 1'],
  ['', 'expected object', ''],
])('the file %j is refused with its place, not its text', async (text, problem, place) => {
  await using folder = await makeFolder();
  const path = join(folder.path, 'stores.yaml');
  await writeFile(path, text);
  expect(() => loadStores(path)).toThrow(refusal(problem));
  expect(() => loadStores(path)).toThrow(refusal(place));
  expect(() => loadStores(path)).toThrow(/^(?!.*hunter2).*$/s);
});

test('the file names filters of tables as the command line does', async () => {
  await using folder = await makeFolder();
  const path = join(folder.path, 'understudy.yaml');
  await writeFile(
    path,
    `filters:
  shop.orders: { where: id > 10, excludeColumns: [note, '"Card"'] }
  '"Shop"."A.b"': { where: "x = ': ok'" }
`,
  );
  expect(loadFilters(path)).toEqual({
    where: [
      { schema: 'shop', name: 'orders', predicate: 'id > 10' },
      { schema: 'Shop', name: 'A.b', predicate: "x = ': ok'" },
    ],
    excludeColumns: [
      { schema: 'shop', name: 'orders', column: 'note' },
      { schema: 'shop', name: 'orders', column: 'Card' },
    ],
  });
  expect(loadStores(path).size).toBe(0);
  await writeFile(path, 'filters:\n  shop.orders: { wehre: id > 10 }\n');
  expect(() => loadFilters(path)).toThrow(refusal('wehre'));
  await writeFile(path, 'filters:\n  shop.orders: { where: "true) OR (true" }\n');
  expect(() => loadFilters(path)).toThrow(refusal('parentheses in order'));
});
