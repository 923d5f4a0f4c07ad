import { anyOf, below, type Item } from './item.ts';

export const INHERITANCE: readonly Item[] = [
  {
    name: 'inheritance, of several parents and levels',
    sql: `
CREATE TABLE hell.parent (id int PRIMARY KEY, a text);
CREATE TABLE hell.other_parent (o int, z text);
CREATE TABLE hell.child (b int, PRIMARY KEY (id)) INHERITS (hell.parent);
CREATE TABLE hell.grandchild (c text, PRIMARY KEY (id)) INHERITS (hell.child, hell.other_parent);
ALTER TABLE hell.other_parent REPLICA IDENTITY FULL;
INSERT INTO hell.parent SELECT i, 'zqrow p' || i FROM generate_series(1, 10) i;
-- The same keys: each table is one of its own.
INSERT INTO hell.child SELECT i, 'zqrow c' || i, i FROM generate_series(1, 10) i;
INSERT INTO hell.grandchild (id, a, b, o, z, c) SELECT i, 'zqrow g' || i, i, i, 'zqrow', 'zqrow' FROM generate_series(1, 10) i;
INSERT INTO hell.other_parent SELECT i, 'zqrow o' || i FROM generate_series(1, 5) i;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.parent SET a = '${salt}' WHERE id = ${anyOf('hell.parent', 'id', salt)}`,
        `UPDATE ONLY hell.parent SET a = '${salt} only' WHERE id = ${anyOf('ONLY hell.parent', 'id', salt)}`,
        `UPDATE hell.other_parent SET z = '${salt}' WHERE o = ${anyOf('hell.other_parent', 'o', salt)}`,
      ],
      ({ salt }) => [
        `DELETE FROM hell.parent WHERE id = ${anyOf('hell.parent', 'id', salt)}`,
        `INSERT INTO hell.parent SELECT max(id) + 1, '${salt}' FROM hell.parent`,
        `INSERT INTO hell.child SELECT max(id), '${salt}', 1 FROM hell.parent`,
        `INSERT INTO hell.grandchild (id, a, b, o, z, c) SELECT max(id) + 1, '${salt}', 1, 2, 'zqrow', '${salt}' FROM hell.parent`,
      ],
      ({ random, salt, mayTruncate }) => [
        // The whole tree, or one table of it.
        `${mayTruncate ? 'TRUNCATE' : 'DELETE FROM'} ${random() < 0.5 ? 'hell.child' : 'ONLY hell.parent'}`,
        `INSERT INTO hell.parent SELECT i, '${salt}' FROM generate_series(1000, 1010) i WHERE i NOT IN (SELECT id FROM ONLY hell.parent)`,
        `INSERT INTO hell.grandchild (id, a, o) SELECT i, '${salt}', i FROM generate_series(1000, 1010) i WHERE i NOT IN (SELECT id FROM ONLY hell.grandchild)`,
      ],
    ],
  },
];

const ARRIVING_MAX = 4;

export const PARTITIONS: readonly Item[] = [
  {
    name: 'partitions: range, then list, then hash, with defaults',
    sql: `
CREATE TABLE hell.tree (id int, at date, kind text, v text, PRIMARY KEY (id, at, kind)) PARTITION BY RANGE (at);
CREATE TABLE hell.tree_2024 PARTITION OF hell.tree FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (kind);
CREATE TABLE hell.tree_2024_a PARTITION OF hell.tree_2024 FOR VALUES IN ('zqrow a', 'zqrow A') PARTITION BY HASH (id);
CREATE TABLE hell.tree_2024_a_0 PARTITION OF hell.tree_2024_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hell.tree_2024_a_1 PARTITION OF hell.tree_2024_a FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE hell.tree_2024_rest PARTITION OF hell.tree_2024 DEFAULT;
-- Attached: its columns are in another order, and some are gone.
CREATE TABLE hell.tree_2025 (gone int, v text, kind text NOT NULL, gone2 text, at date NOT NULL, id int NOT NULL);
ALTER TABLE hell.tree_2025 DROP COLUMN gone, DROP COLUMN gone2;
ALTER TABLE hell.tree ATTACH PARTITION hell.tree_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE hell.tree_rest PARTITION OF hell.tree DEFAULT;
INSERT INTO hell.tree SELECT i, '2023-06-01'::date + i * 11, 'zqrow ' || (ARRAY['a', 'A', 'b'])[1 + i % 3], 'zqrow ' || i FROM generate_series(1, 100) i;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.tree SET v = '${salt}' WHERE id = ${anyOf('hell.tree', 'id', salt)}`,
      ],
      // From partition to partition, through all levels.
      ({ salt, random }) => [
        `UPDATE hell.tree SET at = '2023-10-01'::date + ${below(900, random)} WHERE id = ${anyOf('hell.tree', 'id', salt)}`,
        `UPDATE hell.tree SET kind = 'zqrow ' || CASE kind WHEN 'zqrow a' THEN 'b' ELSE 'a' END WHERE id = ${anyOf('hell.tree', 'id', `${salt}k`)}`,
        `UPDATE hell.tree SET id = (SELECT max(id) + 1 FROM hell.tree), at = CASE WHEN at < '2025-07-01' THEN at + 366 ELSE at - 732 END, v = '${salt}'
          WHERE id = ${anyOf('hell.tree', 'id', `${salt}i`)}`,
      ],
      ({ salt, random }) => [
        `DELETE FROM hell.tree WHERE id = ${anyOf('hell.tree', 'id', salt)}`,
        `INSERT INTO hell.tree SELECT max(id) + 1, '2024-01-01'::date + ${below(600, random)}, 'zqrow A', '${salt}' FROM hell.tree`,
      ],
      ({ salt, random, mayTruncate }) => [
        `${mayTruncate ? 'TRUNCATE' : 'DELETE FROM'} ${random() < 0.3 ? 'hell.tree' : 'hell.tree_2024_a_1'}`,
        `INSERT INTO hell.tree SELECT 50000 + i, '2023-12-01'::date + i * 20, 'zqrow ' || (ARRAY['a', 'A', 'b'])[1 + i % 3], '${salt}' FROM generate_series(1, 40) i WHERE 50000 + i NOT IN (SELECT id FROM hell.tree)`,
      ],
    ],
  },
  {
    name: 'partitions: list with null, hash, an identity by index, several columns',
    sql: `
CREATE TABLE hell.listed (id int NOT NULL, place text, v text) PARTITION BY LIST (place);
CREATE TABLE hell.listed_north PARTITION OF hell.listed FOR VALUES IN ('zqrow n', NULL);
CREATE TABLE hell.listed_south PARTITION OF hell.listed FOR VALUES IN ('zqrow s');
CREATE TABLE hell."listed: rest" PARTITION OF hell.listed DEFAULT;
CREATE UNIQUE INDEX listed_north_id ON hell.listed_north (id);
CREATE UNIQUE INDEX listed_south_id ON hell.listed_south (id);
CREATE UNIQUE INDEX listed_rest_id ON hell."listed: rest" (id);
ALTER TABLE hell.listed_north REPLICA IDENTITY USING INDEX listed_north_id;
ALTER TABLE hell.listed_south REPLICA IDENTITY USING INDEX listed_south_id;
ALTER TABLE hell."listed: rest" REPLICA IDENTITY USING INDEX listed_rest_id;
INSERT INTO hell.listed SELECT i, (ARRAY['zqrow n', NULL, 'zqrow s', 'zqrow x'])[1 + i % 4], 'zqrow ' || i FROM generate_series(1, 40) i;
CREATE TABLE hell.ranges (a int, b text COLLATE "C", v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a, b);
CREATE TABLE hell.ranges_low PARTITION OF hell.ranges FOR VALUES FROM (MINVALUE, MINVALUE) TO (10, 'zqrow m');
CREATE TABLE hell.ranges_high PARTITION OF hell.ranges FOR VALUES FROM (10, 'zqrow m') TO (MAXVALUE, MAXVALUE);
INSERT INTO hell.ranges SELECT i, 'zqrow ' || chr(97 + i % 26), 'zqrow' FROM generate_series(1, 20) i;
CREATE TABLE hell.expressions (id int NOT NULL, v text) PARTITION BY RANGE ((id % 10));
CREATE TABLE hell.expressions_0 PARTITION OF hell.expressions (PRIMARY KEY (id)) FOR VALUES FROM (MINVALUE) TO (5);
CREATE TABLE hell.expressions_1 PARTITION OF hell.expressions (PRIMARY KEY (id)) FOR VALUES FROM (5) TO (MAXVALUE);
INSERT INTO hell.expressions SELECT i, 'zqrow' FROM generate_series(1, 20) i;
-- Without any partition.
CREATE TABLE hell.no_partition (id int PRIMARY KEY) PARTITION BY LIST (id);`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.listed SET place = CASE place WHEN 'zqrow n' THEN NULL WHEN 'zqrow s' THEN 'zqrow x' WHEN 'zqrow x' THEN 'zqrow n' ELSE 'zqrow s' END, v = '${salt}'
          WHERE id = ${anyOf('hell.listed', 'id', salt)}`,
        `UPDATE hell.listed SET v = '${salt}' WHERE id = ${anyOf('hell.listed', 'id', `${salt}v`)}`,
      ],
      ({ salt, random }) => [
        `DELETE FROM hell.listed WHERE id = ${anyOf('hell.listed', 'id', salt)}`,
        `INSERT INTO hell.listed SELECT max(id) + 1, 'zqrow s', '${salt}' FROM hell.listed`,
        `UPDATE hell.ranges SET a = a + ${below(5, random) - 2}, b = 'zqrow ' || chr(97 + ${below(26, random)}), v = '${salt}'
          WHERE (a, b) = (SELECT a, b FROM hell.ranges ORDER BY md5(a || b || '${salt}') LIMIT 1)
            AND NOT EXISTS (SELECT FROM hell.ranges o WHERE o.a BETWEEN ranges.a - 2 AND ranges.a + 2 AND (o.a, o.b) <> (ranges.a, ranges.b))`,
        `UPDATE hell.ranges SET v = '${salt}' WHERE a % 3 = ${below(3, random)}`,
        `UPDATE hell.expressions SET id = id + 3, v = '${salt}' WHERE id = (SELECT max(id) FROM hell.expressions)`,
        `UPDATE hell.expressions SET v = '${salt}' WHERE id = ${anyOf('hell.expressions', 'id', salt)}`,
      ],
    ],
  },
  {
    name: 'partitions that arrive',
    sql: `
CREATE TABLE hell.arriving (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE hell.arriving_0 PARTITION OF hell.arriving FOR VALUES FROM (0) TO (1000);
INSERT INTO hell.arriving SELECT i, 'zqrow' FROM generate_series(1, 20) i;`,
    changes: [
      // The next one, with rows in the transaction that makes it; a few of them, not one a second.
      ({ random, salt, mayTruncate }) => [
        ...(mayTruncate
          ? [
              `DO $$ DECLARE n int := (SELECT count(*) FROM pg_inherits WHERE inhparent = 'hell.arriving'::regclass); BEGIN
                 IF n <= ${ARRIVING_MAX} THEN
                   EXECUTE format('CREATE TABLE hell."arriving: %s" PARTITION OF hell.arriving FOR VALUES FROM (%s) TO (%s)', n, n * 1000, (n + 1) * 1000);
                 END IF;
               END $$`,
            ]
          : []),
        `INSERT INTO hell.arriving SELECT n * 1000 + ${below(900, random)}, '${salt}' FROM (SELECT count(*) - 1 AS n FROM pg_inherits WHERE inhparent = 'hell.arriving'::regclass) one ON CONFLICT DO NOTHING`,
      ],
      ({ salt }) => [
        `UPDATE hell.arriving SET v = '${salt}' WHERE id = ${anyOf('hell.arriving', 'id', salt)}`,
        `DELETE FROM hell.arriving WHERE id = ${anyOf('hell.arriving', 'id', `${salt}d`)} AND id > 100`,
      ],
    ],
  },
];
