import { anyOf, anyPlace, below, type Item } from './item.ts';

const WIDE_COLUMNS = 1600;
/** More than fits into a row beside others: kept out of line, uncompressed. */
const LONG = `repeat(md5(random()::text), 120)`;

/** Tables without a key: rows are told apart by nothing but what they hold. */
export const KEYLESS: readonly Item[] = [
  {
    name: 'no key, rows that are equal to each other',
    sql: `
CREATE TABLE hell.keyless (a int, b text, c numeric, d float8, j json, x xml, p point);
ALTER TABLE hell.keyless REPLICA IDENTITY FULL;
INSERT INTO hell.keyless
  SELECT nullif(i % 5, 0), 'zqrow ' || i % 5, (i % 3) / 2.0, (ARRAY['NaN', '-0', '2', '0.1'])[1 + i % 4]::float8,
         '{"a": 1, "a":2}', '<a>zqrow</a>', '(1,2)'
    FROM generate_series(1, 60) i;
INSERT INTO hell.keyless SELECT NULL FROM generate_series(1, 5);`,
    changes: [
      ({ salt, random }) => [
        `INSERT INTO hell.keyless SELECT ${below(4, random)}, '${salt}', 1.${'0'.repeat(below(4, random))}, '-0', '{"k":"zqrow"}', NULL, '(0,-0)' FROM generate_series(1, 3)`,
      ],
      // One of several that are equal.
      ({ salt }) => [
        `UPDATE hell.keyless SET a = coalesce(a, 0) + 1 WHERE ctid = ${anyPlace('hell.keyless', salt)}`,
        `DELETE FROM hell.keyless WHERE ctid = ${anyPlace('hell.keyless', `${salt}d`, '(SELECT count(*) FROM hell.keyless) > 40')}`,
      ],
      // Equal to =, and another value all the same.
      ({ salt }) => [
        `UPDATE hell.keyless SET c = CASE WHEN scale(c) > 3 THEN 1 ELSE c * 1.0 END, d = CASE WHEN d = 0 THEN -d ELSE d END
          WHERE ctid = ${anyPlace('hell.keyless', salt)}`,
      ],
      () => [
        `UPDATE hell.keyless SET b = b`,
        `UPDATE hell.keyless SET j = '{ "a":1 }' WHERE a = 2`,
        `UPDATE hell.keyless SET j = '{"a": 1}' WHERE a = 3`,
      ],
      () => [
        `WITH gone AS (DELETE FROM hell.keyless WHERE a = 1 RETURNING *) INSERT INTO hell.keyless SELECT * FROM gone`,
        `DELETE FROM hell.keyless WHERE a > 6`,
      ],
    ],
  },
  {
    name: 'no key, values out of line',
    sql: `
CREATE TABLE hell.keyless_long (a int, b text, c text, d bytea);
ALTER TABLE hell.keyless_long ALTER b SET STORAGE EXTERNAL, ALTER d SET STORAGE EXTERNAL;
ALTER TABLE hell.keyless_long REPLICA IDENTITY FULL;
INSERT INTO hell.keyless_long SELECT i, 'zqrow' || repeat(md5((i % 3)::text), 150), 'zqrow', decode(repeat(md5(i::text), 90), 'hex') FROM generate_series(1, 12) i;
-- Rows that are older than a column have its first default.
ALTER TABLE hell.keyless_long ADD COLUMN e text DEFAULT 'zqrow: since later', ADD COLUMN f int;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.keyless_long SET a = a + 1 WHERE ctid = ${anyPlace('hell.keyless_long', salt)}`,
        `UPDATE hell.keyless_long SET f = coalesce(f, 0) + 1 WHERE ctid = ${anyPlace('hell.keyless_long', `${salt}f`)}`,
      ],
      ({ salt }) => [
        `UPDATE hell.keyless_long SET b = 'zqrow' || ${LONG} WHERE ctid = ${anyPlace('hell.keyless_long', salt)}`,
        `INSERT INTO hell.keyless_long SELECT a, b, '${salt}', d, e FROM hell.keyless_long WHERE ctid = ${anyPlace('hell.keyless_long', `${salt}i`)}`,
      ],
      ({ salt }) => [
        `DELETE FROM hell.keyless_long WHERE ctid = ${anyPlace('hell.keyless_long', salt, '(SELECT count(*) FROM hell.keyless_long) > 8')}`,
      ],
      ({ mayTruncate }) => [
        mayTruncate ? 'TRUNCATE hell.keyless_long' : 'DELETE FROM hell.keyless_long',
        `INSERT INTO hell.keyless_long SELECT i, 'zqrow' || ${LONG} FROM generate_series(1, 10) i`,
      ],
    ],
  },
  {
    name: 'no key and no column',
    sql: `
CREATE TABLE hell.nothing ();
ALTER TABLE hell.nothing REPLICA IDENTITY FULL;
INSERT INTO hell.nothing DEFAULT VALUES;
INSERT INTO hell.nothing DEFAULT VALUES;
INSERT INTO hell.nothing DEFAULT VALUES;
-- It had one.
CREATE TABLE hell.nothing_left (a int);
INSERT INTO hell.nothing_left VALUES (1), (2);
ALTER TABLE hell.nothing_left DROP COLUMN a, REPLICA IDENTITY FULL;`,
    changes: [
      () => [
        'INSERT INTO hell.nothing DEFAULT VALUES',
        'INSERT INTO hell.nothing_left DEFAULT VALUES',
      ],
      () => [
        'DELETE FROM hell.nothing WHERE ctid = (SELECT max(ctid) FROM hell.nothing) AND (SELECT count(*) FROM hell.nothing) > 2',
      ],
    ],
  },
];

export const KEYED: readonly Item[] = [
  {
    name: 'replica identity FULL beside a key',
    sql: `
CREATE TABLE hell.full_key (id int PRIMARY KEY, body text, note text, n numeric);
ALTER TABLE hell.full_key ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
INSERT INTO hell.full_key SELECT i, 'zqrow' || repeat(md5(i::text), 100), NULL, i FROM generate_series(1, 20) i;
CREATE TABLE hell.full_unique (a int NOT NULL, b text NOT NULL, c text, UNIQUE (b, a));
ALTER TABLE hell.full_unique REPLICA IDENTITY FULL;
INSERT INTO hell.full_unique SELECT i, 'zqrow ' || i, NULL FROM generate_series(1, 20) i;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.full_key SET note = '${salt}' WHERE id = ${anyOf('hell.full_key', 'id', salt)}`,
        `UPDATE hell.full_unique SET c = '${salt}' WHERE a = ${anyOf('hell.full_unique', 'a', salt)}`,
      ],
      ({ salt }) => [
        `UPDATE hell.full_key SET id = -id WHERE id = ${anyOf('hell.full_key', 'id', salt)} AND NOT EXISTS (SELECT FROM hell.full_key o WHERE o.id = -full_key.id)`,
        `UPDATE hell.full_unique SET b = '${salt}', a = a + 100 WHERE a = ${anyOf('hell.full_unique', 'a', salt)}`,
      ],
      ({ salt }) => [
        `DELETE FROM hell.full_key WHERE id = ${anyOf('hell.full_key', 'id', salt)}`,
        `INSERT INTO hell.full_key SELECT coalesce(max(id), 0) + 1, 'zqrow' || ${LONG}, '${salt}', 1.10 FROM hell.full_key`,
      ],
    ],
  },
  {
    name: 'replica identity by an index that is not the key',
    sql: `
CREATE TABLE hell.by_index (id int PRIMARY KEY, a text NOT NULL, b int NOT NULL, c text);
CREATE UNIQUE INDEX by_index_identity ON hell.by_index (b, a) INCLUDE (c);
ALTER TABLE hell.by_index REPLICA IDENTITY USING INDEX by_index_identity;
INSERT INTO hell.by_index SELECT i, 'zqrow ' || i, i % 4, NULL FROM generate_series(1, 40) i;
CREATE TABLE hell.by_index_only (x text, y int NOT NULL UNIQUE);
ALTER TABLE hell.by_index_only REPLICA IDENTITY USING INDEX by_index_only_y_key;
INSERT INTO hell.by_index_only SELECT 'zqrow ' || i, i FROM generate_series(1, 20) i;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.by_index SET c = '${salt}' WHERE id = ${anyOf('hell.by_index', 'id', salt)}`,
        `UPDATE hell.by_index SET a = '${salt}' WHERE id = ${anyOf('hell.by_index', 'id', `${salt}a`)}`,
        // The primary key changes, and the identity does not.
        `UPDATE hell.by_index SET id = id + 1000 WHERE id = (SELECT max(id) FROM hell.by_index WHERE id < 100000)`,
        `UPDATE hell.by_index_only SET x = '${salt}' WHERE y = ${anyOf('hell.by_index_only', 'y', salt)}`,
      ],
      ({ salt }) => [
        `DELETE FROM hell.by_index WHERE id = ${anyOf('hell.by_index', 'id', salt)}`,
        `INSERT INTO hell.by_index SELECT coalesce(max(id), 0) + 1, '${salt}', 1, NULL FROM hell.by_index`,
        `UPDATE hell.by_index_only SET y = y + 1000 WHERE y = (SELECT max(y) FROM hell.by_index_only WHERE y < 100000)`,
      ],
    ],
  },
  {
    name: 'nothing but a key',
    sql: `
CREATE TABLE hell.key_only (a int, b text, PRIMARY KEY (b, a));
INSERT INTO hell.key_only SELECT i, 'zqrow ' || i FROM generate_series(1, 20) i;`,
    changes: [
      ({ salt, random }) => [
        `INSERT INTO hell.key_only VALUES (${below(1000, random)}, '${salt}')`,
        `UPDATE hell.key_only SET a = a + 1 WHERE b = ${anyOf('hell.key_only', 'b', salt)}`,
        `UPDATE hell.key_only SET a = a WHERE b = ${anyOf('hell.key_only', 'b', `${salt}s`)}`,
        `DELETE FROM hell.key_only WHERE b = ${anyOf('hell.key_only', 'b', `${salt}d`, '(SELECT count(*) FROM hell.key_only) > 15')}`,
      ],
    ],
  },
  {
    name: `${WIDE_COLUMNS} columns`,
    sql: `
CREATE TABLE hell.wide (id int PRIMARY KEY, ${wideColumns()});
INSERT INTO hell.wide (id, c1, c2, c1599) SELECT i, i, 'zqrow ' || i, i FROM generate_series(1, 5) i;`,
    changes: [
      ({ random, salt }) => {
        const [number, text] = [1 + 2 * below(799, random), 2 + 2 * below(799, random)];
        return [
          `UPDATE hell.wide SET c${number} = ${below(1000, random)}, c${text} = '${salt}' WHERE id = ${anyOf('hell.wide', 'id', salt)}`,
          `UPDATE hell.wide SET c${text} = NULL WHERE id = ${anyOf('hell.wide', 'id', `${salt}n`)}`,
        ];
      },
      ({ salt }) => [
        `INSERT INTO hell.wide (id, c2) SELECT coalesce(max(id), 0) + 1, '${salt}' FROM hell.wide`,
        `DELETE FROM hell.wide WHERE id = (SELECT min(id) FROM hell.wide) AND (SELECT count(*) FROM hell.wide) > 5`,
      ],
    ],
  },
  {
    name: 'dropped columns, columns added later, generated columns',
    sql: `
CREATE TABLE hell.dropped (gone1 int, id int, gone2 text, a text, gone3 xml, b int, twice int GENERATED ALWAYS AS (b * 2) STORED, PRIMARY KEY (id));
INSERT INTO hell.dropped SELECT 1, i, 'zqrow', 'zqrow ' || i, '<zqrow/>', i FROM generate_series(1, 20) i;
ALTER TABLE hell.dropped DROP COLUMN gone1, DROP COLUMN gone2, DROP COLUMN gone3;
INSERT INTO hell.dropped (id, a, b) SELECT i, 'zqrow ' || i, i FROM generate_series(21, 25) i;
ALTER TABLE hell.dropped ADD COLUMN late text DEFAULT 'zqrow: late', ADD COLUMN later timestamptz DEFAULT now(),
  ADD COLUMN shout text GENERATED ALWAYS AS (upper(a)) STORED;
CREATE TABLE hell.computed (id int PRIMARY KEY, only_generated int GENERATED ALWAYS AS (id + 1) STORED);
INSERT INTO hell.computed SELECT generate_series(1, 10);`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.dropped SET a = '${salt}' WHERE id = ${anyOf('hell.dropped', 'id', salt)}`,
        `UPDATE hell.dropped SET b = b + 1, late = NULL WHERE id = ${anyOf('hell.dropped', 'id', `${salt}b`)}`,
        `INSERT INTO hell.dropped (id, a, b) SELECT max(id) + 1, '${salt}', 7 FROM hell.dropped`,
        `DELETE FROM hell.dropped WHERE id = ${anyOf('hell.dropped', 'id', `${salt}d`)} AND (SELECT count(*) FROM hell.dropped) > 15`,
      ],
      ({ salt }) => [
        `UPDATE hell.computed SET id = (SELECT max(id) + 1 FROM hell.computed) WHERE id = ${anyOf('hell.computed', 'id', salt)}`,
        `INSERT INTO hell.computed SELECT max(id) + 1 FROM hell.computed`,
        `DELETE FROM hell.computed WHERE id = (SELECT min(id) FROM hell.computed)`,
      ],
    ],
  },
  {
    name: 'virtual columns',
    since: 18,
    sql: `
CREATE TABLE hell.virtual (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, v text, length int GENERATED ALWAYS AS (length(v)) VIRTUAL);
INSERT INTO hell.virtual (id, v) SELECT i, 'zqrow ' || i FROM generate_series(1, 10) i;
CREATE TABLE hell.periods (id int, valid daterange, v text, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
INSERT INTO hell.periods SELECT i, daterange('2024-01-01', '2025-01-01'), 'zqrow' FROM generate_series(1, 10) i;
CREATE TABLE hell.not_enforced (id int PRIMARY KEY, v text CONSTRAINT soft CHECK (v = 'never') NOT ENFORCED,
  up int CONSTRAINT no_key REFERENCES hell.virtual NOT ENFORCED);
INSERT INTO hell.not_enforced VALUES (1, 'zqrow', 999);`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.virtual SET v = '${salt}' WHERE id = ${anyOf('hell.virtual', 'id', salt)}`,
        `UPDATE hell.virtual SET id = id + 100 WHERE id = (SELECT min(id) FROM hell.virtual)`,
        `UPDATE hell.not_enforced SET v = '${salt}', up = up + 1`,
      ],
      ({ salt, random }) => [
        `UPDATE hell.periods SET v = '${salt}' WHERE id = ${anyOf('hell.periods', 'id', salt)}`,
        `UPDATE hell.periods SET valid = daterange('2024-01-01', '2025-01-01'::date + ${below(500, random)}) WHERE id = ${anyOf('hell.periods', 'id', `${salt}p`)}`,
      ],
    ],
  },
  {
    name: 'identity columns and sequences',
    sql: `
CREATE TABLE hell.always (id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 7) PRIMARY KEY, v text);
CREATE TABLE hell.by_default (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY, v text);
CREATE TABLE hell.serials (id bigserial PRIMARY KEY, small smallserial, v text);
CREATE SEQUENCE hell.free_sequence AS smallint INCREMENT -3 MINVALUE -30000 MAXVALUE 10 START 5 CACHE 10 CYCLE;
INSERT INTO hell.always (v) SELECT 'zqrow ' || i FROM generate_series(1, 20) i;
INSERT INTO hell.by_default (v) SELECT 'zqrow ' || i FROM generate_series(1, 20) i;
INSERT INTO hell.serials (v) SELECT 'zqrow ' || i FROM generate_series(1, 20) i;`,
    changes: [
      ({ salt }) => [
        `INSERT INTO hell.always (v) VALUES ('${salt}'), ('${salt}')`,
        `UPDATE hell.always SET v = '${salt}u' WHERE id = ${anyOf('hell.always', 'id', salt)}`,
        `DELETE FROM hell.always WHERE id = (SELECT min(id) FROM hell.always)`,
        `INSERT INTO hell.by_default (v) VALUES ('${salt}')`,
        `UPDATE hell.by_default SET other = DEFAULT WHERE id = ${anyOf('hell.by_default', 'id', salt)}`,
        `DELETE FROM hell.by_default WHERE id = (SELECT min(id) FROM hell.by_default)`,
        `INSERT INTO hell.serials (v) SELECT '${salt}' || nextval('hell.free_sequence')`,
        `DELETE FROM hell.serials WHERE id = (SELECT min(id) FROM hell.serials)`,
      ],
      ({ salt }) => [
        `UPDATE hell.always SET id = DEFAULT WHERE id = ${anyOf('hell.always', 'id', salt)}`,
      ],
    ],
  },
  {
    name: 'values out of line, in keys too',
    sql: `
CREATE TABLE hell.long_values (id int PRIMARY KEY, n int NOT NULL, t text, b bytea, j jsonb, plain text);
ALTER TABLE hell.long_values ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER j SET STORAGE EXTERNAL;
INSERT INTO hell.long_values SELECT i, 0, 'zqrow' || repeat(md5(i::text), 100), decode(repeat(md5(i::text), 200), 'hex'),
  jsonb_build_object('zqrow', repeat(md5(i::text), 90)), 'zqrow' FROM generate_series(1, 20) i;
CREATE TABLE hell.long_key (k text PRIMARY KEY, v text, n int);
ALTER TABLE hell.long_key ALTER k SET STORAGE EXTERNAL, ALTER v SET STORAGE EXTERNAL;
INSERT INTO hell.long_key SELECT 'zqrow' || i || repeat('k', 2200), repeat('zqrow', 500), 0 FROM generate_series(1, 10) i;`,
    changes: [
      ({ salt }) => [
        `UPDATE hell.long_values SET n = n + 1 WHERE id = ${anyOf('hell.long_values', 'id', salt)}`,
        `UPDATE hell.long_values SET n = n + 1, t = 'zqrow' || ${LONG} WHERE id = ${anyOf('hell.long_values', 'id', `${salt}t`)}`,
        `UPDATE hell.long_values SET n = n + 1, j = NULL WHERE id = ${anyOf('hell.long_values', 'id', `${salt}j`)}`,
        `UPDATE hell.long_values SET n = n + 1, j = jsonb_build_object('zqrow', ${LONG}) WHERE j IS NULL`,
      ],
      // The key changes, the long values do not (trap 11); also back and forth.
      ({ salt }) => [
        `UPDATE hell.long_values SET id = id + 1000 WHERE id = ${anyOf('hell.long_values', 'id', salt, 'id < 1000')}`,
        `UPDATE hell.long_values SET n = n + 1 WHERE id > 1000`,
        `UPDATE hell.long_values SET id = id - 1000 WHERE id = ${anyOf('hell.long_values', 'id', salt, 'id > 1000 AND NOT EXISTS (SELECT FROM hell.long_values o WHERE o.id = long_values.id - 1000)')}`,
      ],
      ({ salt }) => [
        `UPDATE hell.long_key SET n = n + 1 WHERE k = ${anyOf('hell.long_key', 'k', salt)}`,
        `UPDATE hell.long_key SET k = '${salt}' || repeat('K', 2300) WHERE k = ${anyOf('hell.long_key', 'k', `${salt}k`)}`,
        `UPDATE hell.long_key SET v = v || 'zqrow' WHERE k = ${anyOf('hell.long_key', 'k', `${salt}v`)}`,
      ],
      ({ salt }) => [
        `DELETE FROM hell.long_values WHERE id = ${anyOf('hell.long_values', 'id', salt)}`,
        `INSERT INTO hell.long_values SELECT min(i), 0, 'zqrow' || ${LONG} FROM generate_series(1, 1000) i WHERE i NOT IN (SELECT id FROM hell.long_values)`,
      ],
      // Deleted and inserted again under its key, long values included.
      ({ salt }) => [
        `DO $$ DECLARE r hell.long_values; BEGIN
           DELETE FROM hell.long_values WHERE id = ${anyOf('hell.long_values', 'id', salt)} RETURNING * INTO r;
           INSERT INTO hell.long_values VALUES (r.id, r.n + 1, r.t, r.b, r.j, '${salt}');
           UPDATE hell.long_values SET n = n + 1 WHERE id = r.id;
         END $$`,
      ],
    ],
  },
];

function wideColumns(): string {
  return Array.from(
    { length: WIDE_COLUMNS - 1 },
    (_, i) => `c${i + 1} ${i % 2 === 0 ? 'int' : 'text'}`,
  ).join(', ');
}
