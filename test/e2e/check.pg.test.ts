import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import { parseLines, runCommand, urlOf } from '#test/command.ts';
import { createServerFolder, createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 120_000 });

const GOOD = 'CREATE TABLE public.t (id int PRIMARY KEY, x text); INSERT INTO public.t VALUES (1)';
const KEYLESS = 'CREATE TABLE public.log (line text)';

test('a database that can be shadowed is ready: exit code 0', async () => {
  await using source = await createTestDatabase(14, GOOD);
  await using target = await createTestDatabase(18);
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const { code, stdout, stderr } = await runCommand(['check', ...urls]);
  expect(stderr).toBe('');
  expect(stdout).toContain('1 table checked: ready for a shadow');
  expect(code).toBe(0);
});

test('what cannot be shadowed is refused with SQL that mends it: exit code 2', async () => {
  await using source = await createTestDatabase(15, `${GOOD}; ${KEYLESS}`);
  await using target = await createTestDatabase(16);
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const plain = await runCommand(['check', ...urls]);
  expect(plain.code).toBe(2);
  expect(plain.stdout).toContain('table "public"."log"');
  expect(plain.stdout).toContain('not ready for a shadow');

  const json = await runCommand(['check', ...urls, '--json']);
  expect([json.code, json.stderr]).toEqual([2, '']);
  const lines = parseLines(json.stdout);
  expect(lines.filter(({ type, severity }) => type === 'finding' && severity === 'refuse')).toEqual(
    [expect.objectContaining({ object: 'table "public"."log"', fix: expect.anything() })],
  );
  expect(lines.at(-1)).toMatchObject({ type: 'checked', tables: 2, refusals: 1 });
  expect(json.stdout).not.toContain(source.endpoint.password);

  const without = await runCommand(['check', ...urls, '--exclude', 'public.log']);
  expect(without.code).toBe(0);
});

test('stores of a YAML file stand for URLs, with passwords from the environment', async () => {
  await using source = await createTestDatabase(17, GOOD);
  await using target = await createTestDatabase(17);
  await using folder = await createServerFolder();
  const file = join(folder.path, 'stores.yaml');
  const { host, port, user, database } = source.endpoint;
  writeFileSync(
    file,
    [
      'stores:',
      '  production:',
      `    url: postgres://${user}@${host}:${port}/${database}`,
      '    password: env:PRODUCTION_PASSWORD',
      `  shadow: ${urlOf(target.endpoint)}`,
    ].join('\n'),
  );
  const args = ['check', '--config', file, '--source', 'production', '--target', 'shadow'];
  const env = { PRODUCTION_PASSWORD: source.endpoint.password ?? '' };
  expect((await runCommand(args, env)).code).toBe(0);
  expect(await runCommand(args)).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^error CONFIG_INVALID: .*PRODUCTION_PASSWORD/),
  });
  writeFileSync(file, 'stores: [not, {closed');
  expect(await runCommand(args)).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^error CONFIG_INVALID: .*line 1/),
  });
});

test.each([
  ['CONNECTION_FAILED', { port: 1 }],
  ['AUTHENTICATION_FAILED', { password: 'wrong-secret' }],
  ['DATABASE_MISSING', { database: 'no_such_database' }],
])('%s is said of the side that has it, without the password', async (code, change) => {
  await using source = await createTestDatabase(18);
  const bad = urlOf({ ...source.endpoint, ...change });
  const urls = ['--source', urlOf(source.endpoint), '--target', bad];
  const ended = await runCommand(['check', ...urls]);
  expect(ended).toMatchObject({ code: 1, stdout: '' });
  expect(ended.stderr).toMatch(new RegExp(`^error ${code}: .*\\nhint: .*\\n$`));
  expect(ended.stderr).not.toContain('wrong-secret');
});

test('a pattern that matches nothing is an error', async () => {
  await using source = await createTestDatabase(18, GOOD);
  const url = urlOf(source.endpoint);
  const args = ['check', '--source', url, '--target', url, '--table', 'public.nothing*'];
  const { code, stderr } = await runCommand(args);
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error SELECTION_EMPTY: .*nothing/);
});
