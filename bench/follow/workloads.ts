/** The schema that workloads live in. */
export const SCHEMA = 'bench';

export type Workload = {
  readonly name: string;
  /** In words, for the report. */
  readonly what: string;
  /** Both sides before the backlog: tables, keys, indexes and the rows that are there already. */
  readonly setUp: string;
  /** One writer's share: committed transactions in a loop on the server. */
  readonly write: (writer: number) => string;
  /** Rows changed by all writers together. */
  readonly changes: number;
};

/** Writers at the same time, so that their transactions lie mixed in the WAL as production's do. */
export const WRITERS = 2;

/** Row changes of each workload at scale 1. */
const CHANGES = 400_000;

/** The last transaction of a backlog: once it is on the target, all before it is. */
export const MARKER = `${SCHEMA}.marker`;
const MARKER_DDL = `CREATE SCHEMA ${SCHEMA}; CREATE TABLE ${MARKER} (id int PRIMARY KEY);`;

/** Three kinds of write load, as `perf` spikes and pgbench have them; `scale` 1 is 400,000 row changes each. */
export function workloads(scale: number): readonly Workload[] {
  return [tpcb(scale), inserts(scale), updates(scale)];
}

/** pgbench's transaction, with a key for its history: hot rows, so most updates are overtaken. */
function tpcb(scale: number): Workload {
  const accounts = atLeast(1_000_000 * scale);
  const perWriter = atLeast((CHANGES * scale) / 4 / WRITERS);
  return {
    name: 'tpcb',
    what: `1 insert and 3 updates a transaction, ${accounts.toLocaleString('en-US')} accounts`,
    setUp: `${MARKER_DDL}
      CREATE TABLE ${SCHEMA}.branches (bid int, bbalance int, filler char(88));
      CREATE TABLE ${SCHEMA}.tellers (tid int, bid int, tbalance int, filler char(84));
      CREATE TABLE ${SCHEMA}.accounts (aid int, bid int, abalance int, filler char(84));
      CREATE TABLE ${SCHEMA}.history (hid bigserial PRIMARY KEY, tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
      INSERT INTO ${SCHEMA}.branches SELECT i, 0, '' FROM generate_series(1, 10) AS g (i);
      INSERT INTO ${SCHEMA}.tellers SELECT i, 1 + i % 10, 0, '' FROM generate_series(1, 100) AS g (i);
      INSERT INTO ${SCHEMA}.accounts SELECT i, 1 + i % 10, 0, '' FROM generate_series(1, ${accounts}) AS g (i);
      ALTER TABLE ${SCHEMA}.branches ADD PRIMARY KEY (bid);
      ALTER TABLE ${SCHEMA}.tellers ADD PRIMARY KEY (tid);
      ALTER TABLE ${SCHEMA}.accounts ADD PRIMARY KEY (aid);`,
    write: (writer) =>
      loop({
        writer,
        times: perWriter,
        declare: 'a int; t int; b int; d int;',
        body: `
          a := 1 + floor(random() * ${accounts}); t := 1 + floor(random() * 100);
          b := 1 + floor(random() * 10); d := floor(random() * 10001) - 5000;
          UPDATE ${SCHEMA}.accounts SET abalance = abalance + d WHERE aid = a;
          UPDATE ${SCHEMA}.tellers SET tbalance = tbalance + d WHERE tid = t;
          UPDATE ${SCHEMA}.branches SET bbalance = bbalance + d WHERE bid = b;
          INSERT INTO ${SCHEMA}.history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, clock_timestamp());`,
      }),
    changes: perWriter * WRITERS * 4,
  };
}

/** Only new rows, of types that cost something, into a table with a second index. */
function inserts(scale: number): Workload {
  const perWriter = atLeast((CHANGES * scale) / 5 / WRITERS);
  return {
    name: 'inserts',
    what: '5 inserts a transaction; jsonb, numeric, timestamptz; a key and an index',
    setUp: `${MARKER_DDL}
      CREATE TABLE ${SCHEMA}.events (
        id bigserial PRIMARY KEY, kind text NOT NULL, doc jsonb, amount numeric(12,2), at timestamptz);
      CREATE INDEX events_at ON ${SCHEMA}.events (at);`,
    write: (writer) =>
      loop({
        writer,
        times: perWriter,
        declare: '',
        body: `
          INSERT INTO ${SCHEMA}.events (kind, doc, amount, at)
          SELECT 'kind ' || k, jsonb_build_object('sku', 'S' || floor(random() * 5000), 'amount', i, 'by', ${writer}),
                 floor(random() * 1000000) / 100, clock_timestamp()
            FROM generate_series(1, 5) AS g (k);`,
      }),
    changes: perWriter * WRITERS * 5,
  };
}

/** Rows all over a large table; hardly any is hit twice. */
function updates(scale: number): Workload {
  const items = atLeast(1_000_000 * scale);
  const perWriter = atLeast((CHANGES * scale) / 5 / WRITERS);
  // Each writer has its own half, or two of them could wait for each other's rows.
  const half = Math.floor(items / WRITERS);
  return {
    name: 'updates',
    what: `5 updates of random keys a transaction, ${items.toLocaleString('en-US')} rows`,
    setUp: `${MARKER_DDL}
      CREATE TABLE ${SCHEMA}.items (id bigint, name text, quantity int, price numeric(12,2), changed_at timestamptz);
      INSERT INTO ${SCHEMA}.items
        SELECT i, 'item ' || i, 0, (i % 100000) / 100.0, '2024-01-01 00:00:00+00' FROM generate_series(1, ${items}) AS g (i);
      ALTER TABLE ${SCHEMA}.items ADD PRIMARY KEY (id);`,
    write: (writer) =>
      loop({
        writer,
        times: perWriter,
        declare: 'key bigint;',
        body: `
          FOR k IN 1..5 LOOP
            -- Not in the condition: a volatile one is no index condition.
            key := ${writer * half} + 1 + floor(random() * ${half});
            UPDATE ${SCHEMA}.items SET quantity = quantity + 1, changed_at = clock_timestamp() WHERE id = key;
          END LOOP;`,
      }),
    changes: perWriter * WRITERS * 5,
  };
}

function loop(parts: {
  readonly writer: number;
  readonly times: number;
  readonly declare: string;
  readonly body: string;
}): string {
  return `DO $bench$ DECLARE ${parts.declare} BEGIN
    PERFORM setseed(${(parts.writer + 1) / 10});
    FOR i IN 1..${parts.times} LOOP ${parts.body}
      COMMIT;
    END LOOP; END $bench$`;
}

function atLeast(count: number): number {
  return Math.max(1000, Math.round(count));
}
