import { anyOf, below, type Item } from './item.ts';

export const CONSTRAINTS: readonly Item[] = [
  {
    name: 'foreign keys: cyclic, deferrable, to itself, with every action',
    sql: `
CREATE TABLE hell.egg (id int PRIMARY KEY, hen int NOT NULL, v text);
CREATE TABLE hell.hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES hell.egg DEFERRABLE INITIALLY DEFERRED, v text);
ALTER TABLE hell.egg ADD CONSTRAINT egg_hen FOREIGN KEY (hen) REFERENCES hell.hen DEFERRABLE INITIALLY IMMEDIATE;
CREATE TABLE hell.node (id int PRIMARY KEY, up int REFERENCES hell.node ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE TABLE hell.leaf_cascade (id int PRIMARY KEY, node int REFERENCES hell.node ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE hell.leaf_null (id int PRIMARY KEY, node int REFERENCES hell.node ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE hell.leaf_default (id int PRIMARY KEY, node int DEFAULT 0 REFERENCES hell.node ON DELETE SET DEFAULT ON UPDATE CASCADE);
BEGIN; SET CONSTRAINTS ALL DEFERRED;
INSERT INTO hell.egg SELECT i, i, 'zqrow' FROM generate_series(1, 10) i;
INSERT INTO hell.hen SELECT i, i, 'zqrow' FROM generate_series(1, 10) i;
COMMIT;
INSERT INTO hell.node VALUES (0, NULL, 'zqrow: root');
INSERT INTO hell.node SELECT i, i / 3, 'zqrow ' || i FROM generate_series(1, 60) i;
INSERT INTO hell.leaf_cascade SELECT i, i FROM generate_series(1, 60) i;
INSERT INTO hell.leaf_null SELECT i, i FROM generate_series(1, 60) i;
INSERT INTO hell.leaf_default SELECT i, i FROM generate_series(1, 60) i;
ALTER TABLE hell.leaf_null ADD CONSTRAINT never_validated FOREIGN KEY (id) REFERENCES hell.node (id) NOT VALID;
ALTER TABLE hell.leaf_null DROP CONSTRAINT never_validated;
CREATE TABLE hell.old_rows (id int PRIMARY KEY, v text);
INSERT INTO hell.old_rows VALUES (-1, 'zqrow: too low');
ALTER TABLE hell.old_rows ADD CONSTRAINT positive CHECK (id > 0) NOT VALID;`,
    changes: [
      ({ salt }) => [
        'SET CONSTRAINTS ALL DEFERRED',
        `INSERT INTO hell.egg SELECT max(id) + 1, max(id) + 1, '${salt}' FROM hell.egg`,
        `INSERT INTO hell.hen SELECT max(id) + 1, max(id) + 1, '${salt}' FROM hell.hen`,
        `DELETE FROM hell.egg WHERE id = (SELECT min(id) FROM hell.egg)`,
        `DELETE FROM hell.hen WHERE id = (SELECT min(id) FROM hell.hen)`,
        'SET CONSTRAINTS ALL IMMEDIATE',
      ],
      ({ salt }) => [
        `DELETE FROM hell.node WHERE id = ${anyOf('hell.node', 'id', salt, 'id > 20')}`,
        `INSERT INTO hell.node SELECT max(id) + 1, 0, '${salt}' FROM hell.node`,
        `INSERT INTO hell.leaf_cascade SELECT (SELECT coalesce(max(id), 0) + 1 FROM hell.leaf_cascade), max(id) FROM hell.node`,
        `INSERT INTO hell.leaf_null SELECT (SELECT coalesce(max(id), 0) + 1 FROM hell.leaf_null), max(id) FROM hell.node`,
        `INSERT INTO hell.leaf_default SELECT (SELECT coalesce(max(id), 0) + 1 FROM hell.leaf_default), max(id) FROM hell.node`,
      ],
      ({ salt }) => [
        `UPDATE hell.node SET id = (SELECT max(id) + 1 FROM hell.node) WHERE id = ${anyOf('hell.node', 'id', salt, 'id > 20')}`,
        `INSERT INTO hell.old_rows SELECT max(abs(id)) + 1, '${salt}' FROM hell.old_rows`,
      ],
    ],
  },
  {
    name: 'unique values that trade places',
    sql: `
CREATE TABLE hell.seats (id int PRIMARY KEY, seat text NOT NULL UNIQUE, later int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED,
  part int, v text);
CREATE UNIQUE INDEX seats_part ON hell.seats (part) WHERE part > 0;
CREATE UNIQUE INDEX seats_expression ON hell.seats (lower(seat));
INSERT INTO hell.seats SELECT i, 'zqrow ' || i, i, i, 'zqrow' FROM generate_series(1, 20) i;`,
    changes: [
      ({ salt }) => [
        `DO $$ DECLARE a int := ${anyOf('hell.seats', 'id', `${salt}a`)}; b int := ${anyOf('hell.seats', 'id', `${salt}b`)}; sa text; sb text; BEGIN
           SELECT seat INTO sa FROM hell.seats WHERE id = a;
           SELECT seat INTO sb FROM hell.seats WHERE id = b;
           IF a <> b THEN
             UPDATE hell.seats SET seat = 'zqrow: between' WHERE id = a;
             UPDATE hell.seats SET seat = sa WHERE id = b;
             UPDATE hell.seats SET seat = sb WHERE id = a;
           END IF;
         END $$`,
      ],
      // In one statement, since it is checked at the end.
      ({ random }) => [`UPDATE hell.seats SET later = (later + ${1 + below(9, random)}) % 20`],
      ({ salt }) => [
        `UPDATE hell.seats SET part = -part WHERE id = ${anyOf('hell.seats', 'id', salt)} AND NOT EXISTS (SELECT FROM hell.seats o WHERE o.part = -seats.part)`,
        `UPDATE hell.seats SET seat = upper(seat) WHERE id = ${anyOf('hell.seats', 'id', `${salt}u`)}`,
        `UPDATE hell.seats SET seat = lower(seat) WHERE id = ${anyOf('hell.seats', 'id', `${salt}l`)}`,
      ],
      // A unique value goes to a new row; the old row goes.
      ({ salt }) => [
        `DO $$ DECLARE r hell.seats; BEGIN
           DELETE FROM hell.seats WHERE id = ${anyOf('hell.seats', 'id', salt)} RETURNING * INTO r;
           INSERT INTO hell.seats SELECT max(id) + 1, r.seat, r.later, r.part, '${salt}' FROM hell.seats;
         END $$`,
      ],
    ],
  },
  {
    name: 'keys that trade places',
    sql: `
CREATE TABLE hell.swapped (id int PRIMARY KEY, v text NOT NULL, long text);
ALTER TABLE hell.swapped ALTER long SET STORAGE EXTERNAL;
INSERT INTO hell.swapped SELECT i, 'zqrow ' || i, 'zqrow' || repeat(md5(i::text), 90) FROM generate_series(1, 12) i;
-- A deferrable key is no replica identity; another index is.
CREATE TABLE hell.swapped_later (id int PRIMARY KEY DEFERRABLE, name text NOT NULL, v text);
CREATE UNIQUE INDEX swapped_later_name ON hell.swapped_later (name);
ALTER TABLE hell.swapped_later REPLICA IDENTITY USING INDEX swapped_later_name;
INSERT INTO hell.swapped_later SELECT i, 'zqrow ' || i, 'zqrow' FROM generate_series(1, 12) i;`,
    changes: [
      () => [
        'UPDATE hell.swapped SET id = -id',
        'UPDATE hell.swapped SET id = CASE id WHEN -1 THEN 12 ELSE -id - 1 END',
      ],
      ({ salt }) => [
        `DO $$ DECLARE a int := ${anyOf('hell.swapped', 'id', `${salt}a`)}; b int := ${anyOf('hell.swapped', 'id', `${salt}b`)}; BEGIN
           UPDATE hell.swapped SET id = 1000 WHERE id = a;
           UPDATE hell.swapped SET id = a WHERE id = b;
           UPDATE hell.swapped SET id = b, v = '${salt}' WHERE id = 1000 AND a <> b;
           UPDATE hell.swapped SET id = a WHERE id = 1000;
         END $$`,
      ],
      () => [
        'SET CONSTRAINTS ALL DEFERRED',
        'UPDATE hell.swapped_later SET id = (id % 12) + 1',
        'SET CONSTRAINTS ALL IMMEDIATE',
      ],
      // The same key again and again.
      ({ salt }) => [
        `DO $$ DECLARE k int := ${anyOf('hell.swapped', 'id', salt)}; r hell.swapped; BEGIN
           FOR i IN 1..3 LOOP
             DELETE FROM hell.swapped WHERE id = k RETURNING * INTO r;
             INSERT INTO hell.swapped VALUES (k, '${salt}' || i, r.long);
             UPDATE hell.swapped SET v = v || 'u' WHERE id = k;
             UPDATE hell.swapped SET id = 2000 WHERE id = k;
             UPDATE hell.swapped SET id = k WHERE id = 2000;
           END LOOP;
         END $$`,
      ],
    ],
  },
  {
    name: 'unique with nulls that are not distinct',
    since: 15,
    sql: `
CREATE TABLE hell.nulls_equal (id int PRIMARY KEY, a int, b text, UNIQUE NULLS NOT DISTINCT (a, b));
INSERT INTO hell.nulls_equal SELECT i, nullif(i, 1), 'zqrow' FROM generate_series(1, 10) i;`,
    changes: [
      ({ salt }) => [
        `DO $$ DECLARE x int := ${anyOf('hell.nulls_equal', 'id', salt)}; old int; BEGIN
           SELECT a INTO old FROM hell.nulls_equal WHERE id = x;
           UPDATE hell.nulls_equal SET a = 1000 WHERE a IS NULL;
           UPDATE hell.nulls_equal SET a = NULL WHERE id = x;
           UPDATE hell.nulls_equal SET a = old WHERE a = 1000;
         END $$`,
      ],
    ],
  },
  {
    name: 'exclusion constraints',
    sql: `
CREATE TABLE hell.booked (id int PRIMARY KEY, room int, during tstzrange, v text,
  CONSTRAINT no_overlap EXCLUDE USING gist (room WITH OPERATOR(pg_catalog.=), during WITH &&),
  CONSTRAINT no_overlap_later EXCLUDE USING gist (during WITH &&, (room + 1) WITH OPERATOR(pg_catalog.=)) WHERE (room > 2) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO hell.booked SELECT i, i % 4, tstzrange('2024-01-01'::timestamptz + i * interval '1 day', '2024-01-02'::timestamptz + i * interval '1 day'), 'zqrow'
  FROM generate_series(1, 24) i;`,
    changes: [
      // Two rows trade their times.
      ({ salt }) => [
        `DO $$ DECLARE a int := ${anyOf('hell.booked', 'id', `${salt}a`)}; b int := ${anyOf('hell.booked', 'id', `${salt}b`)}; da tstzrange; db tstzrange; BEGIN
           SELECT during INTO da FROM hell.booked WHERE id = a;
           SELECT during INTO db FROM hell.booked WHERE id = b;
           IF a <> b THEN
             UPDATE hell.booked SET during = 'empty' WHERE id = a;
             UPDATE hell.booked SET during = da WHERE id = b;
             UPDATE hell.booked SET during = db, v = '${salt}' WHERE id = a;
           END IF;
         END $$`,
      ],
      ({ random }) => [
        `UPDATE hell.booked SET room = 100 + room`,
        `UPDATE hell.booked SET room = (room - 100 + ${below(4, random)}) % 4`,
      ],
    ],
  },
  {
    name: 'TRUNCATE: cascade, restart identity, several tables at once',
    sql: `
CREATE TABLE hell.emptied (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE hell.emptied_child (id serial PRIMARY KEY, up int REFERENCES hell.emptied, v text);
CREATE TABLE hell.emptied_too (id int PRIMARY KEY, v text);
INSERT INTO hell.emptied (v) SELECT 'zqrow ' || i FROM generate_series(1, 10) i;
INSERT INTO hell.emptied_child (up, v) SELECT i, 'zqrow ' || i FROM generate_series(1, 10) i;
INSERT INTO hell.emptied_too SELECT i, 'zqrow ' || i FROM generate_series(1, 10) i;`,
    changes: [
      ({ salt }) => [
        `INSERT INTO hell.emptied (v) VALUES ('${salt}'), ('${salt}')`,
        `INSERT INTO hell.emptied_child (up, v) SELECT max(id), '${salt}' FROM hell.emptied`,
        `INSERT INTO hell.emptied_too SELECT coalesce(max(id), 0) + 1, '${salt}' FROM hell.emptied_too`,
        `UPDATE hell.emptied SET v = '${salt}u' WHERE id = ${anyOf('hell.emptied', 'id', salt)}`,
      ],
      ({ salt, random, mayTruncate }) => {
        const insert = `INSERT INTO hell.emptied (v) SELECT '${salt}' || i FROM generate_series(1, 3) i`;
        if (!mayTruncate) return [insert];
        return [
          insert,
          random() < 0.5
            ? 'TRUNCATE hell.emptied RESTART IDENTITY CASCADE'
            : 'TRUNCATE hell.emptied_too, hell.emptied_child, hell.emptied CONTINUE IDENTITY RESTRICT',
          insert,
          ...(random() < 0.3 ? ['TRUNCATE hell.emptied, hell.emptied_child', insert] : []),
        ];
      },
    ],
  },
];
