import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { parseLines, runInProcess, startCommand, urlOf } from '#test/command.ts';
import { isFull } from '#test/full.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

vi.setConfig({ testTimeout: 240_000 });

const SHOP = `
  CREATE SCHEMA shop;
  CREATE TABLE shop.customers (id int PRIMARY KEY, name text NOT NULL,
    card text NOT NULL DEFAULT 'zqrow none' CHECK (card <> '' AND card IS NOT NULL),
    card_end text GENERATED ALWAYS AS (right(card, 4)) STORED NOT NULL, since date);
  CREATE INDEX customers_card ON shop.customers (card);
  CREATE UNIQUE INDEX customers_card_end ON shop.customers (card_end, id);
  CREATE TABLE shop.orders (id int PRIMARY KEY, customer_id int REFERENCES shop.customers ON UPDATE CASCADE ON DELETE SET NULL, region int,
    note text, "Secret" int NOT NULL DEFAULT 7);
  ALTER TABLE shop.orders REPLICA IDENTITY FULL;
  CREATE TABLE shop.events (id int, card text NOT NULL DEFAULT 'zqrow e', what text,
    CONSTRAINT has_card CHECK (card IS NOT NULL), PRIMARY KEY (id)) PARTITION BY RANGE (id);
  CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM (0) TO (1000);
  CREATE TABLE shop.events_2 (what text, id int NOT NULL, card text NOT NULL,
    CONSTRAINT has_card CHECK (card IS NOT NULL));
  ALTER TABLE shop.events ATTACH PARTITION shop.events_2 FOR VALUES FROM (1000) TO (2000);
  INSERT INTO shop.customers (id, name, card) SELECT i, 'zqrow ' || i, 'zqrow 1234 ' || i FROM generate_series(1, 500) i;
  INSERT INTO shop.orders SELECT i, i % 500 + 1, i % 5, 'zqrow ' || i FROM generate_series(1, 2000) i;
  INSERT INTO shop.events (id, what) SELECT i, 'zqrow' FROM generate_series(0, 1999, 7) i`;

const FILTERS = [
  '--where',
  'shop.customers: id <= 100 OR id > 10000',
  '--where',
  'shop.events: id % 2 = 0 AND id <> 14',
  '--exclude-column',
  'shop.customers.card',
  '--exclude-column',
  'shop.events.card',
];

/** What belongs to the dataset, and on the target everything that there is. */
async function fingerprint(session: Session, isSource: boolean, region: string): Promise<unknown> {
  const where = (predicate: string): string => (isSource ? `WHERE ${predicate}` : '');
  const rows = await session.query(`
    SELECT kind, count(*), md5(string_agg(row, E'\\n' ORDER BY row COLLATE "C")) AS hash FROM (
      SELECT 'c' AS kind, (id, name, since)::text AS row FROM shop.customers ${where('id <= 100 OR id > 10000')}
      UNION ALL SELECT 'o', (id, customer_id, region, note)::text FROM shop.orders ${where(region)}
      UNION ALL SELECT 'e', (tableoid::regclass, id, what)::text FROM shop.events ${where('id % 2 = 0 AND id <> 14')}
    ) r GROUP BY kind ORDER BY kind`);
  return rows;
}

const CHURN = `
  -- Into the filter, out of it, within it and without it, by the key.
  UPDATE shop.customers SET id = id + 20000 WHERE id BETWEEN 101 AND 110;
  UPDATE shop.orders SET customer_id = NULL WHERE customer_id <= 30;
  UPDATE shop.customers SET id = id + 300000 WHERE id BETWEEN 1 AND 10;
  UPDATE shop.customers SET id = id + 500 WHERE id BETWEEN 11 AND 20;
  UPDATE shop.customers SET id = id + 5000 WHERE id BETWEEN 450 AND 460;
  UPDATE shop.customers SET since = '2024-01-01', card = 'zqrow 9' WHERE id % 3 = 0;
  DELETE FROM shop.customers WHERE id BETWEEN 21 AND 30;
  INSERT INTO shop.customers (id, name) SELECT i, 'zqrow new' FROM generate_series(10001, 10020) i;
  INSERT INTO shop.customers (id, name) VALUES (9999, 'zqrow out');
  -- By another column, under FULL.
  UPDATE shop.orders SET region = (region + 1) % 5 WHERE id <= 1000;
  DELETE FROM shop.orders WHERE id BETWEEN 1500 AND 1600;
  INSERT INTO shop.orders (id, region, note) SELECT i, i % 5, 'zqrow' FROM generate_series(3000, 3100) i;
  -- Between partitions, in and out.
  UPDATE shop.events SET id = id + 1000 WHERE id < 100;
  UPDATE shop.events SET id = id - 999 WHERE id BETWEEN 1500 AND 1600;
  DELETE FROM shop.events WHERE id BETWEEN 1800 AND 1900`;

test.each<readonly [TestVersion, TestVersion]>(
  isFull
    ? [
        [15, 18],
        [16, 17],
        [18, 18],
      ]
    : [[15, 18]],
)(
  'from %i to %i filtered rows and columns are copied, followed, verified and repaired',
  async (from, to) => {
    await using source = await createTestDatabase(from, SHOP);
    await using target = await createTestDatabase(to);
    const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
    try {
      const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
      const region = 'region IN (1, 2)';
      const filters = [...FILTERS, '--where', `shop.orders: ${region}`];
      const clone = ['clone', ...urls, ...filters, '--follow', '--spool', spool, '--json'];
      {
        await using first = startCommand([...clone, '--verify']);
        await first.waitFor('"type":"verified"');
        await source.session.query(CHURN);
        // Under DML of every kind production was not refused (trap 7), or this would have failed.
        first.kill('SIGINT');
        const ended = await first.ended;
        expect([ended.code, ended.stderr]).toEqual([130, '']);
        const lines = parseLines(ended.stdout);
        expect(lines.find(({ type }) => type === 'verified')).toMatchObject({ differences: 0 });
        const notices = lines.filter(({ type }) => type === 'notice').map(({ message }) => message);
        expect(notices).toContain(
          'of table shop.orders rows matching (region IN (1, 2)) were compared with all on the target',
        );
        expect(notices).toContain(
          'of table shop.customers these columns are excluded: card, card_end',
        );
      }
      // With other filters it is another shadow, and in the way.
      const other = await runInProcess(['check', ...urls, ...FILTERS, '--json']);
      expect(
        parseLines(other.stdout).filter(({ severity }) => severity === 'refuse'),
      ).toMatchObject([{ id: 'filter-other' }]);

      await using second = startCommand(clone);
      await second.waitFor('"phase":"following"');
      const verified = await runInProcess(['verify', ...urls, '--json']);
      expect([verified.code, verified.stderr]).toEqual([0, '']);
      expect(await fingerprint(target.session, false, region)).toEqual(
        await fingerprint(source.session, true, region),
      );
      const [empty] = await target.session.query(`
      SELECT count(card) + count(card_end) + (SELECT count(card) FROM shop.events) AS filled FROM shop.customers`);
      expect(empty).toEqual({ filled: '0' });
      const [keys] = await target.session.query(
        `SELECT convalidated FROM pg_constraint WHERE conname = 'orders_customer_id_fkey'`,
      );
      expect(keys).toEqual({ convalidated: 'f' });

      // A row on the target that the filter does not take is a difference, and repaired.
      await target.session.query(`
      INSERT INTO shop.orders (id, region) VALUES (1000000, 4);
      UPDATE shop.orders SET note = 'zqrow tampered' WHERE id = 1001 OR id = 1002;
      DELETE FROM shop.customers WHERE id = 99`);
      const repaired = await runInProcess(['verify', ...urls, '--repair', '--json']);
      const lines = parseLines(repaired.stdout);
      const kinds = lines
        .filter(({ type }) => type === 'difference')
        .map(({ kind }) => String(kind));
      expect(kinds.toSorted((a, b) => a.localeCompare(b))).toEqual([
        'changed',
        'changed',
        'extra',
        'missing',
      ]);
      expect([repaired.code, lines.at(-1)]).toMatchObject([
        0,
        { type: 'repaired', differences: 0 },
      ]);
      expect(await fingerprint(target.session, false, region)).toEqual(
        await fingerprint(source.session, true, region),
      );
      const dropped = await runInProcess(['drop', ...urls]);
      expect([dropped.code, dropped.stderr]).toEqual([0, '']);
      expect((await second.ended).code).toBe(0);
      // What could be undone is: the default and the CHECKs are back, of partitions, too.
      const checks = await target.session.query(
        `SELECT conrelid::regclass::text AS t FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 ORDER BY 1`,
      );
      expect(checks.map(({ t }) => t)).toEqual([
        'shop.customers',
        'shop.events',
        'shop.events_1',
        'shop.events_2',
      ]);
    } finally {
      rmSync(spool, { recursive: true });
    }
  },
);

test('from 14 filters take a clone that is not followed, also out of the file', async () => {
  await using source = await createTestDatabase(14, SHOP);
  await using target = await createTestDatabase(18);
  const folder = mkdtempSync(join(tmpdir(), 'understudy-test-'));
  try {
    const config = join(folder, 'understudy.yaml');
    writeFileSync(
      config,
      `stores: {}
filters:
  shop.customers: { where: id <= 100 OR id > 10000, excludeColumns: [card, name] }
  shop.orders:
    where: note LIKE '%7'
    excludeColumns: ['"Secret"']
  shop.events: { where: 'id % 2 = 0 AND id <> 14', excludeColumns: [card] }
`,
    );
    const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
    const clone = ['clone', ...urls, '--config', config, '--verify', '--json'];
    const cloned = await runInProcess(clone);
    expect([cloned.code, cloned.stderr]).toEqual([0, '']);
    expect(parseLines(cloned.stdout).find(({ type }) => type === 'verified')).toMatchObject({
      differences: 0,
    });
    await source.session.query(`UPDATE shop.customers SET name = '(none)'`);
    await source.session.query(`UPDATE shop.customers SET name = 'x'`);
    const [row] = await target.session.query(
      'SELECT count(*) AS rows, count(name) + count(card) AS filled FROM shop.customers',
    );
    expect(row).toEqual({ rows: '100', filled: '0' });
    const [orders] = await target.session.query(
      'SELECT count(*) AS rows, count("Secret") AS filled FROM shop.orders',
    );
    expect(orders).toEqual({ rows: '200', filled: '0' });
    // Later, without the file: the shadow knows its filters.
    expect((await runInProcess(['verify', ...urls])).code).toBe(0);
    await target.session.query(
      `DELETE FROM shop.orders WHERE id = 7; INSERT INTO shop.orders (id) VALUES (8)`,
    );
    const differing = await runInProcess(['verify', ...urls, '--table', 'shop.orders', '--json']);
    expect(differing.code).toBe(3);
    expect(parseLines(differing.stdout).find(({ type }) => type === 'verified')).toMatchObject({
      tables: 1,
      differences: 2,
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
