import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { parseLines, runCommand, startCommand, urlOf } from '#test/command.ts';
import { casesOf } from '#test/full.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 240_000 });

/** Tables that are not ordinary, copied, followed, verified and repaired by the commands themselves. */
const schemaOf = (version: number): string => `
  CREATE SCHEMA s;
  -- Inheritance: several levels, two parents, columns in another order, a key of its own or none.
  CREATE TABLE s.base (id int PRIMARY KEY, v text);
  CREATE TABLE s.child (extra int, PRIMARY KEY (id)) INHERITS (s.base);
  CREATE TABLE s.other_base (w numeric, note text);
  ALTER TABLE s.other_base REPLICA IDENTITY FULL;
  CREATE TABLE s.grandchild (own text) INHERITS (s.child, s.other_base);
  ALTER TABLE s.grandchild REPLICA IDENTITY FULL;
  CREATE TABLE s.joined (extra2 text, v text, gone int, id int NOT NULL UNIQUE);
  ALTER TABLE s.joined DROP gone, REPLICA IDENTITY USING INDEX joined_id_key;
  -- Since 18 a parent's primary key brings its NOT NULL along, before which nobody asks for it.
  ALTER TABLE s.joined INHERIT s.base;
  -- Identities on partitions: of the index that they share, and FULL.
  CREATE TABLE s.part (id int NOT NULL, at int, v text) PARTITION BY RANGE (at);
  CREATE TABLE s.part_low (v text, at int, id int NOT NULL);
  ALTER TABLE s.part ATTACH PARTITION s.part_low FOR VALUES FROM (0) TO (100);
  CREATE TABLE s.part_high PARTITION OF s.part DEFAULT;
  CREATE UNIQUE INDEX part_low_id ON s.part_low (id);
  ALTER TABLE s.part_low REPLICA IDENTITY USING INDEX part_low_id;
  ALTER TABLE s.part_high REPLICA IDENTITY FULL;
  -- Constraints that look at other rows.
  CREATE TABLE s.node (id int PRIMARY KEY, parent int REFERENCES s.node ON DELETE CASCADE);
  CREATE TABLE s.egg (id int PRIMARY KEY, hen int);
  CREATE TABLE s.hen (id int PRIMARY KEY, egg int REFERENCES s.egg DEFERRABLE INITIALLY DEFERRED);
  ALTER TABLE s.egg ADD FOREIGN KEY (hen) REFERENCES s.hen DEFERRABLE INITIALLY DEFERRED;
  CREATE TABLE s.stay (room int, during int4range, EXCLUDE USING gist (int4range(room, room + 1) WITH =, during WITH &&));
  ALTER TABLE s.stay REPLICA IDENTITY FULL;
  -- What acts on writes, and must not on ours.
  CREATE TABLE s.ruled (id int PRIMARY KEY, v text);
  CREATE RULE no_delete AS ON DELETE TO s.ruled WHERE OLD.v = 'kept' DO INSTEAD NOTHING;
  CREATE FUNCTION s.count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + 1; RETURN NEW; END $$;
  CREATE TABLE s.counted (v text, n int);
  ALTER TABLE s.counted REPLICA IDENTITY FULL;
  CREATE TRIGGER up BEFORE INSERT OR UPDATE ON s.counted FOR EACH ROW EXECUTE FUNCTION s.count_up();
  ALTER TABLE s.counted ENABLE ALWAYS TRIGGER up;
  CREATE TABLE s.hidden (v text);
  ALTER TABLE s.hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, REPLICA IDENTITY FULL;
  CREATE POLICY nothing ON s.hidden USING (false);
  CREATE TABLE s.empty ();
  ALTER TABLE s.empty REPLICA IDENTITY FULL;
  CREATE TABLE s.identity (id int GENERATED ALWAYS AS IDENTITY, v text);
  ALTER TABLE s.identity REPLICA IDENTITY FULL;
  -- Copied in binary and followed as text; their bytes are not those that their text gives.
  CREATE TABLE s.odd_bytes (f float8, a int[]);
  ALTER TABLE s.odd_bytes REPLICA IDENTITY FULL;
  -- Computed on either side. Under FULL, 18 would refuse production's writes.
  CREATE TABLE s.computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, b int
    ${version < 18 ? '' : ', thrice int GENERATED ALWAYS AS (a * 3) VIRTUAL'});
  CREATE TABLE s.computed_whole (a int ${version < 18 ? ', twice int GENERATED ALWAYS AS (a * 2) STORED' : ''}, b int);
  ALTER TABLE s.computed_whole REPLICA IDENTITY FULL;
  -- Only their definition goes.
  CREATE UNLOGGED TABLE s.cache (id int PRIMARY KEY);
  CREATE FOREIGN DATA WRAPPER nowhere;
  CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
  CREATE FOREIGN TABLE s.away (id int) SERVER nowhere;`;

/** Each statement runs before the copy with n = 1 and while following with n = 2. */
const writes = (n: number): readonly string[] => [
  `INSERT INTO s.base SELECT i, 'zqrow' FROM generate_series(${n}00, ${n}50) i`,
  // Equal keys in parent and children are different rows.
  `INSERT INTO s.child SELECT i, 'zqrow', i FROM generate_series(${n}00, ${n}70) i`,
  `INSERT INTO s.other_base SELECT 1.0, 'zqrow' FROM generate_series(1, 60)`,
  `INSERT INTO s.grandchild (id, v, extra, w, note, own) SELECT i % 7, 'zqrow', i % 2, 1.00, NULL, 'own' FROM generate_series(1, 80) i`,
  `INSERT INTO s.joined (id, v, extra2) SELECT i, 'zqrow', 'x' FROM generate_series(${n}00, ${n}20) i`,
  // Through the parents into every child; columns have other places there.
  `UPDATE s.base SET v = v || '${n}' WHERE id % 3 = 0`,
  `UPDATE ONLY s.base SET v = 'only' WHERE id % 10 = 1`,
  `UPDATE s.other_base SET w = w + 1 WHERE ctid IN (SELECT ctid FROM s.other_base LIMIT 20)`,
  `DELETE FROM s.base WHERE id IN (${n}05, 5)`,
  `INSERT INTO s.part SELECT i, i, 'zqrow' FROM generate_series(${n - 1}50, ${n}49) i`,
  `UPDATE s.part SET at = at + 60 WHERE id % 5 = 0`,
  `UPDATE s.part SET v = 'changed', id = id + 1000 WHERE id % 7 = 0`,
  `DELETE FROM s.part WHERE id % 11 = 0`,
  `INSERT INTO s.node SELECT ${n}000 + i, CASE WHEN i > 1 THEN ${n}000 + i / 2 END FROM generate_series(1, 60) i`,
  `DELETE FROM s.node WHERE id = ${n}003`,
  `BEGIN; INSERT INTO s.egg VALUES (${n}, ${n}); INSERT INTO s.hen VALUES (${n}, ${n}); COMMIT`,
  `INSERT INTO s.stay SELECT i, int4range(${n}0, ${n}5) FROM generate_series(1, 60) i`,
  `UPDATE s.stay SET room = room + 100 WHERE room < 30`,
  `INSERT INTO s.ruled SELECT ${n}000 + i, CASE WHEN i > 50 THEN 'kept' ELSE 'zqrow' END FROM generate_series(1, 60) i`,
  `DELETE FROM s.ruled WHERE id > ${n}040`,
  `INSERT INTO s.counted SELECT 'zqrow', i % 3 FROM generate_series(1, 90) i`,
  `UPDATE s.counted SET v = 'changed' WHERE n = 2`,
  `INSERT INTO s.hidden SELECT 'zqrow' FROM generate_series(1, 60)`,
  `DELETE FROM s.hidden WHERE ctid IN (SELECT ctid FROM s.hidden LIMIT 10)`,
  `INSERT INTO s.empty SELECT FROM generate_series(1, 70)`,
  `DELETE FROM s.empty WHERE ctid IN (SELECT ctid FROM s.empty LIMIT 20)`,
  `INSERT INTO s.identity (v) SELECT 'zqrow' FROM generate_series(1, 60)`,
  `UPDATE s.identity SET v = 'changed' WHERE id % 4 = 0`,
  `INSERT INTO s.odd_bytes SELECT 'Infinity'::float8 - 'Infinity'::float8, array_remove('{1,NULL}'::int[], NULL) FROM generate_series(1, 60)`,
  `DELETE FROM s.odd_bytes WHERE ctid IN (SELECT ctid FROM s.odd_bytes LIMIT 50)`,
  `INSERT INTO s.computed (id, a, b) SELECT ${n}000 + i, i, i FROM generate_series(1, 60) i`,
  `UPDATE s.computed SET a = a + 1, id = -id WHERE id > ${n}000 AND id % 5 = 0`,
  `INSERT INTO s.computed_whole (a, b) SELECT i, i % 3 FROM generate_series(1, 60) i`,
  `UPDATE s.computed_whole SET a = a + 1 WHERE b = 0`,
  `INSERT INTO s.cache SELECT ${n}000 + i FROM generate_series(1, 10) i`,
];

const TABLES =
  'base child other_base grandchild joined part_low part_high node egg hen stay ruled counted hidden empty identity odd_bytes computed computed_whole'.split(
    ' ',
  );

/**
 * Independent of our own hashing: of each table its number of rows, and all of them as text in one order.
 * Not by their own text: pg_dump puts the inherited columns of a child first.
 */
async function fingerprint(session: Session): Promise<unknown> {
  const parts = TABLES.map(
    (name) => `SELECT '${name}' AS name, count(*) AS rows,
      md5(string_agg(to_jsonb(t)::text, E'\\n' ORDER BY to_jsonb(t)::text COLLATE "C")) AS hash FROM ONLY s.${name} AS t`,
  );
  return session.query(parts.join(' UNION ALL '));
}

async function currentLsn(session: Session): Promise<string> {
  return (await session.query('SELECT pg_current_wal_lsn() AS lsn'))[0]?.['lsn'] ?? '';
}

test.each(casesOf<readonly [14 | 18, 18]>([14, 18], [18, 18]))(
  'tables that are not ordinary are cloned, followed, verified and repaired, from %i to %i',
  async (from, to) => {
    await using source = await createTestDatabase(from, schemaOf(from));
    await using target = await createTestDatabase(to);
    const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
    const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
    try {
      for (const sql of writes(1)) await source.session.query(sql);
      await using shadow = startCommand(['clone', ...urls, '--follow', '--spool', spool, '--json']);
      await shadow.waitFor('"phase":"following"');
      for (const sql of writes(2)) await source.session.query(sql);
      // With its children, and then without.
      await source.session.query('TRUNCATE s.other_base; TRUNCATE ONLY s.base');
      const verified = await runCommand(['verify', ...urls, '--json']);
      const verdict = parseLines(verified.stdout).find(({ type }) => type === 'verified');
      expect(verdict).toMatchObject({
        differences: 0,
        tables: TABLES.length,
        unverified: ['s.away (it is a foreign table)', 's.cache (it is unlogged)'],
      });
      expect(await fingerprint(target.session)).toEqual(await fingerprint(source.session));
      expect(await target.session.query('SELECT id FROM s.cache')).toEqual([]);

      const status = await runCommand(['status', '--target', urlOf(target.endpoint), '--json']);
      expect(parseLines(status.stdout)[0]).toMatchObject({
        stoppedTables: [],
        definitionOnly: [
          { table: 's.away', reason: 'it is a foreign table' },
          { table: 's.cache', reason: 'it is unlogged' },
        ],
      });

      // One of many equal rows is missing, one is there too often, one is another.
      await target.session.query(`
        DELETE FROM s.hidden WHERE ctid IN (SELECT min(ctid) FROM s.hidden);
        INSERT INTO s.other_base (w, note) VALUES (1.0, 'zqrow');
        UPDATE s.grandchild SET w = 1.0 WHERE ctid IN (SELECT min(ctid) FROM s.grandchild);
        INSERT INTO s.empty DEFAULT VALUES;
        DELETE FROM ONLY s.child WHERE id = 101;
        TRUNCATE ONLY s.part_high`);
      const repaired = await runCommand(['verify', ...urls, '--repair', '--json']);
      expect(repaired.code).toBe(0);
      expect(parseLines(repaired.stdout).at(-1)).toMatchObject({
        type: 'repaired',
        differences: 0,
      });
      for (const sql of writes(3)) await source.session.query(sql);
      const end = await currentLsn(source.session);
      shadow.kill('SIGINT');
      await shadow.ended;
      const until = ['clone', ...urls, '--follow', '--spool', spool, '--until-lsn', end];
      expect(await runCommand(until)).toMatchObject({ code: 0, stderr: '' });
      expect(await fingerprint(target.session)).toEqual(await fingerprint(source.session));
      const dropped = await runCommand(['drop', ...urls, '--json']);
      expect([dropped.code, dropped.stderr]).toEqual([0, '']);
    } finally {
      rmSync(spool, { recursive: true });
    }
  },
);
