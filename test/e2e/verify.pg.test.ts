import { expect, test, vi } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { parseLines, runCommand, runInProcess, urlOf } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 120_000 });

const ROWS = `
  CREATE TABLE public.t (id int PRIMARY KEY, x text);
  INSERT INTO public.t SELECT i, 'value ' || i FROM generate_series(1, 500) i`;

test('equal sides are a success, one changed value is exit code 3 with its key', async () => {
  await using source = await createTestDatabase(14, ROWS);
  await using target = await createTestDatabase(18, ROWS);
  const args = ['verify', '--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const clean = await runCommand(args);
  expect([clean.code, clean.stderr]).toEqual([0, '']);
  expect(clean.stdout).toContain('both sides are the same');

  await target.session.query(`UPDATE public.t SET x = 'my secret value' WHERE id = 7`);
  const plain = await runCommand(args);
  expect([plain.code, plain.stderr]).toEqual([3, '']);
  expect(plain.stdout).toMatch(/public\.t +changed +id=7 +x\n/);

  const json = await runCommand([...args, '--json']);
  expect([json.code, json.stderr]).toEqual([3, '']);
  const lines = parseLines(json.stdout);
  expect(lines.filter(({ type }) => type === 'difference')).toEqual([
    {
      type: 'difference',
      kind: 'changed',
      table: { schema: 'public', name: 't' },
      key: { id: '7' },
      columns: ['x'],
      cause: null,
      time: expect.any(String),
    },
  ]);
  expect(lines.find(({ type }) => type === 'verified')).toMatchObject({ differences: 1 });
  expect(plain.stdout + json.stdout).not.toContain('secret');
});

test('a sequence that cannot be read now is not called the same, and keeps nobody waiting (trap 27)', async () => {
  await using source = await createTestDatabase(18, `${ROWS}; CREATE SEQUENCE public.q`);
  await using target = await createTestDatabase(18, `${ROWS}; CREATE SEQUENCE public.q`);
  await using production = await openSession(source.endpoint, { applicationName: 'test' });
  await production.query('BEGIN; ALTER SEQUENCE public.q CACHE 10');
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const verified = await runInProcess(['verify', ...urls, '--json']);
  expect(parseLines(verified.stdout).find(({ type }) => type === 'verified')).toMatchObject({
    differences: 0,
    unverified: ['public.q (sequence: another transaction has locked it)'],
  });
});
