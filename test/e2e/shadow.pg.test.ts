import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { parseLines, runCommand, startCommand, urlOf } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 240_000 });

const SHOP = `
  CREATE SCHEMA shop;
  CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total numeric, note jsonb);
  CREATE TABLE shop.line (order_id bigint REFERENCES shop.orders, no int, what text, PRIMARY KEY (order_id, no));
  CREATE INDEX line_what ON shop.line (what);
  INSERT INTO shop.orders (total, note) SELECT i / 7.0, jsonb_build_object('n', i) FROM generate_series(1, 3000) i;
  INSERT INTO shop.line SELECT i, n, md5(i || '/' || n) FROM generate_series(1, 3000) i, generate_series(1, 2) n`;

/** Independent of our own hashing: every row as text, in one order. */
const FINGERPRINT = `
  SELECT md5(string_agg(row, E'\\n' ORDER BY row COLLATE "C")) AS hash, count(*) AS rows FROM (
    SELECT 'o' || o::text AS row FROM shop.orders o UNION ALL SELECT 'l' || l::text FROM shop.line l) r`;

async function fingerprint(session: Session): Promise<unknown> {
  return (await session.query(FINGERPRINT))[0];
}

/** Whatever a shadow could leave behind on a source. */
async function sourceObjects(session: Session): Promise<unknown> {
  return session.query(`
    SELECT 'slot' AS kind, slot_name::text AS name FROM pg_replication_slots WHERE database = current_database()
    UNION ALL SELECT 'publication', pubname FROM pg_publication
    UNION ALL SELECT 'relation', oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_'
    UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'schema', nspname FROM pg_namespace ORDER BY 1, 2`);
}

async function currentLsn(session: Session): Promise<string> {
  return (await session.query('SELECT pg_current_wal_lsn() AS lsn'))[0]?.['lsn'] ?? '';
}

test('clone, follow, verify, tamper, drop: a shadow from its first day to its last', async () => {
  await using source = await createTestDatabase(14, SHOP);
  await using target = await createTestDatabase(18);
  const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
  try {
    const before = await sourceObjects(source.session);
    const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
    const clone = ['clone', ...urls, '--follow', '--spool', spool, '--json'];
    {
      await using first = startCommand([...clone, '--verify']);
      await first.waitFor('"type":"verified"');
      await source.session.query(`
        UPDATE shop.orders SET total = -1 WHERE id <= 10; DELETE FROM shop.line WHERE order_id = 11;
        INSERT INTO shop.orders (total) SELECT i FROM generate_series(1, 100) i`);
      first.kill('SIGINT');
      const ended = await first.ended;
      expect([ended.code, ended.stderr]).toEqual([130, '']);
      const lines = parseLines(ended.stdout);
      expect(lines.find(({ type }) => type === 'verified')).toMatchObject({ differences: 0 });
      expect(lines.at(-1)).toMatchObject({ type: 'interrupted' });
      expect(ended.stdout).not.toContain(`:${source.endpoint.password}@`);
    }
    await source.session.query(
      `UPDATE shop.line SET what = 'changed while nobody followed' WHERE no = 2`,
    );
    // Nobody follows now, so the verification does for as long as it takes.
    expect((await runCommand(['verify', ...urls])).code).toBe(0);
    await source.session.query('DELETE FROM shop.line WHERE order_id = 12');
    const until = await runCommand([...clone, '--until-lsn', await currentLsn(source.session)]);
    expect([until.code, until.stderr]).toEqual([0, '']);
    expect(await fingerprint(target.session)).toEqual(await fingerprint(source.session));

    await using second = startCommand(clone);
    await second.waitFor('"phase":"following"');
    expect((await runCommand(['verify', ...urls])).code).toBe(0);
    await target.session.query(`UPDATE shop.orders SET total = 0 WHERE id = 77`);
    const tampered = await runCommand(['verify', ...urls, '--full', '--json']);
    expect(tampered.code).toBe(3);
    expect(parseLines(tampered.stdout).filter(({ type }) => type === 'difference')).toMatchObject([
      {
        kind: 'changed',
        table: { schema: 'shop', name: 'orders' },
        key: { id: '77' },
        columns: ['total'],
      },
    ]);
    const repaired = await runCommand(['verify', ...urls, '--full', '--repair', '--json']);
    expect(repaired.code).toBe(0);
    expect(parseLines(repaired.stdout).at(-1)).toMatchObject({
      type: 'repaired',
      rows: 1,
      differences: 0,
    });
    expect(await fingerprint(target.session)).toEqual(await fingerprint(source.session));
    const status = await runCommand(['status', '--target', urlOf(target.endpoint), '--json']);
    expect(status.code).toBe(0);
    expect(parseLines(status.stdout)).toMatchObject([
      { type: 'shadow', phase: 'following', isRunning: true, tables: 2, tablesCopied: 2 },
      { type: 'listed', shadows: 1 },
    ]);

    const dropped = await runCommand(['drop', ...urls, '--json']);
    expect([dropped.code, dropped.stderr]).toEqual([0, '']);
    expect((await second.ended).code).toBe(0);
    expect(await sourceObjects(source.session)).toEqual(before);
    expect(await sourceObjects(target.session)).toEqual(before);
    const gone = await runCommand(['drop', ...urls]);
    expect(gone.code).toBe(1);
    expect(gone.stderr).toMatch(/^error SHADOW_MISSING: /);
  } finally {
    rmSync(spool, { recursive: true });
  }
});

test('a clone that is not followed ends by itself, verified at its own snapshot (trap 27)', async () => {
  await using source = await createTestDatabase(15, SHOP);
  await using target = await createTestDatabase(15);
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const cloned = await runCommand(['clone', ...urls, '--verify']);
  expect([cloned.code, cloned.stderr]).toEqual([0, '']);
  expect(cloned.stdout).toContain('both sides are the same');
  expect(await fingerprint(target.session)).toEqual(await fingerprint(source.session));
  const status = await runCommand(['status', '--target', urlOf(target.endpoint)]);
  expect(status.stdout).toMatch(/phase +complete/);
});

test('what check refuses, clone refuses with exit code 2 and the findings, and changes nothing', async () => {
  await using source = await createTestDatabase(16, 'CREATE TABLE public.log (line text)');
  await using target = await createTestDatabase(16);
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const { code, stdout, stderr } = await runCommand(['clone', ...urls, '--follow']);
  expect(code).toBe(2);
  expect(stdout).toContain('table "public"."log"');
  expect(stderr).toMatch(/^error PREFLIGHT_REFUSED: .*\nhint: .*\n$/);
  const status = await runCommand(['status', '--target', urlOf(target.endpoint)]);
  expect([status.code, status.stdout]).toEqual([0, 'The target holds no shadow.\n']);
});
