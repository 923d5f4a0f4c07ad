/**
 * The tables of the chaos tests: every kind of key that a shadow follows, and three tables that tell on
 * their own whether transactions arrive whole, once and in order:
 *
 *     ledger   each transaction inserts its worker's next number
 *     head     each worker's last number
 *     total    how many transactions there were
 *
 * In any snapshot of either side `head` is the maximum of `ledger`, `total` its count, and the balances
 * of all accounts add up to `BALANCE`.
 */
export const WORKERS = 2;
const ACCOUNTS = 200;
const SEATS = 60;

export const BALANCE = ACCOUNTS * 100;

export const CHAOS_SCHEMA = `
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('calm', 'Busy', 'it''s odd');
CREATE TABLE app.account (id int PRIMARY KEY, owner int NOT NULL, balance bigint NOT NULL,
                          note text, seen timestamptz, CHECK (balance > -1000000));
CREATE TABLE app."Order Line" ("order" int, line int, owner int NOT NULL, qty numeric(12,3), mood app.mood,
                               cost numeric GENERATED ALWAYS AS (qty * 2) STORED, PRIMARY KEY ("order", line));
CREATE TABLE app.document (id uuid PRIMARY KEY, owner int NOT NULL, version int NOT NULL, body text, tags text[]);
ALTER TABLE app.document ALTER body SET STORAGE EXTERNAL;
CREATE TABLE app.label (name text PRIMARY KEY, owner int NOT NULL, uses int NOT NULL, extra jsonb);
CREATE TABLE app.seat (id int PRIMARY KEY, owner int NOT NULL, place text NOT NULL UNIQUE);
CREATE TABLE app.scratch (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text);
CREATE TABLE app.bulk (id bigint PRIMARY KEY, owner int NOT NULL, payload text NOT NULL);
CREATE INDEX bulk_payload ON app.bulk (md5(payload));
CREATE TABLE app.reading (id int PRIMARY KEY, owner int NOT NULL, value float8, at date) PARTITION BY HASH (id);
CREATE TABLE app.reading_0 PARTITION OF app.reading FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.reading_1 PARTITION OF app.reading FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.ledger (worker int, number int, at timestamptz NOT NULL DEFAULT clock_timestamp(),
                         PRIMARY KEY (worker, number));
CREATE TABLE app.head (worker int PRIMARY KEY, number int NOT NULL);
CREATE TABLE app.total (id int PRIMARY KEY, transactions int NOT NULL);

INSERT INTO app.account SELECT i, i % ${WORKERS}, 100, 'zqrow account ' || i, now() FROM generate_series(1, ${ACCOUNTS}) i;
INSERT INTO app."Order Line" SELECT i, l, i % ${WORKERS}, i / 7.0, 'calm' FROM generate_series(1, 100) i, generate_series(1, 3) l;
INSERT INTO app.document SELECT md5('doc' || i)::uuid, i % ${WORKERS}, 0, 'zqrow' || repeat(md5(i::text), 200), ARRAY['zqrow', NULL]
  FROM generate_series(1, 60) i;
INSERT INTO app.label SELECT 'zqrow label ' || i || E' \\\\ \\t"''é', i % ${WORKERS}, 0, jsonb_build_object('n', i) FROM generate_series(1, 60) i;
INSERT INTO app.seat SELECT i, i % ${WORKERS}, 'zqrow place ' || i FROM generate_series(1, ${SEATS}) i;
INSERT INTO app.scratch (payload) SELECT 'zqrow first ' || i FROM generate_series(1, 20) i;
INSERT INTO app.reading SELECT i, i % ${WORKERS}, i / 3.0, '2024-01-01'::date + i FROM generate_series(1, 200) i;
INSERT INTO app.head SELECT i, 0 FROM generate_series(0, ${WORKERS - 1}) i;
INSERT INTO app.total VALUES (1, 0);
`;

/** Rows that take the copy a while. */
export function bulkRows(rows: number): string {
  return `INSERT INTO app.bulk SELECT -i, i % ${WORKERS}, 'zqrow' || repeat(md5(i::text), 8) FROM generate_series(1, ${rows}) i;`;
}
