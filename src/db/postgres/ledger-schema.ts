/** Raised by every change that an older or newer program would misread. */
export const LEDGER_VERSION = 3;

/** By which a program knows a ledger that it can read, before it looks at any row. */
export const LEDGER_COMMENT = `ledger version ${LEDGER_VERSION}`;

/**
 * Everything a shadow knows, on the target in schema `understudy` (docs/state.md explains each table).
 * Positions are pg_lsn. `shadow_id` is eight hex digits. Runs as one idempotent script.
 */
export const LEDGER_SCHEMA = `
CREATE SCHEMA IF NOT EXISTS understudy;

CREATE TABLE IF NOT EXISTS understudy.shadow (
  shadow_id            text PRIMARY KEY,
  ledger_version       integer NOT NULL,
  source_system_id     text NOT NULL,
  source_timeline      integer NOT NULL,
  source_database      text NOT NULL,
  source_address       text NOT NULL,
  slot_name            text,
  publication_name     text,
  publication_oid      bigint,
  origin_name          text,
  selection            jsonb NOT NULL,
  is_followed          boolean NOT NULL,
  stream_format        text NOT NULL CHECK (stream_format IN ('text', 'binary')),
  consistent_lsn       pg_lsn,
  spool_directory      text,
  source_wal_bytes_max bigint NOT NULL,
  -- The lag beyond which it is late; 0: none.
  max_lag_ms           bigint NOT NULL DEFAULT 0,
  stopped_spool_bytes_max bigint NOT NULL,
  phase                text NOT NULL,
  stop_code            text,
  stop_message         text,
  -- Whether our event triggers are on the source (docs/adr/0010).
  has_ddl_triggers     boolean NOT NULL DEFAULT false,
  -- Of the database and this table when the shadow was made: see TARGET_IDENTITY.
  target_identity      text,
  created_at           timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE understudy.shadow IS '${LEDGER_COMMENT}';

-- The epoch that every apply transaction checks; who holds it is an advisory lock (docs/state.md).
CREATE TABLE IF NOT EXISTS understudy.lease (
  shadow_id text PRIMARY KEY,
  epoch     bigint NOT NULL,
  holder    text NOT NULL
);

CREATE TABLE IF NOT EXISTS understudy.snapshot (
  shadow_id    text NOT NULL,
  generation   integer NOT NULL,
  lsn          pg_lsn NOT NULL,
  snapshot     text NOT NULL,
  exported     text[] NOT NULL,
  backend_pids integer[] NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shadow_id, generation)
);

CREATE TABLE IF NOT EXISTS understudy.relation (
  shadow_id     text NOT NULL,
  source_oid    bigint NOT NULL,
  schema_name   text NOT NULL,
  table_name    text NOT NULL,
  generation    integer NOT NULL DEFAULT 0,
  state         text NOT NULL
    CHECK (state IN ('pending', 'copying', 'catching up', 'copied', 'stopped')),
  start_lsn     pg_lsn,
  -- A lane applies its changes, not the main loop, until it is 'copied'.
  is_in_lane    boolean NOT NULL DEFAULT false,
  -- Of the lane; written in its apply transactions.
  applied_lsn   pg_lsn,
  pages         bigint NOT NULL DEFAULT 0,
  part_pages    bigint,
  source_bytes  bigint NOT NULL DEFAULT 0,
  rows          bigint NOT NULL DEFAULT 0,
  bytes         bigint NOT NULL DEFAULT 0,
  -- What the changes of this table must look like: key columns, and [{name, attnum, typeOid}] as streamed.
  key_columns   text[] NOT NULL DEFAULT '{}',
  columns       jsonb NOT NULL DEFAULT '[]',
  -- Which part of it the publication carries: '' for all of it.
  published     text NOT NULL DEFAULT '',
  -- The table is the source as of here; null when it is of no position.
  stop_lsn      pg_lsn,
  stop_code     text,
  stop_message  text,
  stopped_at    timestamptz,
  waits_for     text CHECK (waits_for IN ('resume', 'reseed')),
  -- Whether the spool keeps its changes since stop_lsn, and what that costs.
  is_spooled    boolean NOT NULL DEFAULT false,
  spool_bytes   bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (shadow_id, source_oid)
);

-- Tables of the dataset whose rows are neither copied nor followed, as of the last run.
CREATE TABLE IF NOT EXISTS understudy.definition_only (
  shadow_id   text NOT NULL,
  source_oid  bigint NOT NULL,
  schema_name text NOT NULL,
  table_name  text NOT NULL,
  reason      text NOT NULL,
  PRIMARY KEY (shadow_id, source_oid)
);

CREATE TABLE IF NOT EXISTS understudy.part (
  shadow_id  text NOT NULL,
  source_oid bigint NOT NULL,
  generation integer NOT NULL,
  part       integer NOT NULL,
  rows       bigint NOT NULL,
  bytes      bigint NOT NULL,
  copied_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shadow_id, source_oid, generation, part)
);

-- How far the large objects are copied, and what tells whether they have changed since.
CREATE TABLE IF NOT EXISTS understudy.large_objects (
  shadow_id     text PRIMARY KEY,
  state         text NOT NULL DEFAULT 'copying' CHECK (state IN ('copying', 'copied')),
  fingerprint   text NOT NULL,
  snapshot      text,
  copied_oid    bigint NOT NULL DEFAULT 0,
  copied_offset bigint NOT NULL DEFAULT 0,
  is_anew       boolean NOT NULL DEFAULT false,
  objects       bigint NOT NULL DEFAULT 0,
  bytes         bigint NOT NULL DEFAULT 0,
  unreadable    bigint NOT NULL DEFAULT 0,
  changed_at    timestamptz
);

CREATE TABLE IF NOT EXISTS understudy.step (
  shadow_id text NOT NULL,
  step      integer NOT NULL,
  stage     text NOT NULL,
  kind      text NOT NULL,
  object    text NOT NULL,
  statement text NOT NULL,
  schema_name text,
  table_name  text,
  done_at   timestamptz,
  PRIMARY KEY (shadow_id, step)
);

CREATE TABLE IF NOT EXISTS understudy.adjustment (
  shadow_id text NOT NULL,
  object    text NOT NULL,
  applied   text NOT NULL,
  undo      text NOT NULL,
  PRIMARY KEY (shadow_id, object)
);

CREATE TABLE IF NOT EXISTS understudy.progress (
  shadow_id   text,
  applied_lsn pg_lsn,
  -- Both: each transaction finds its row at once, however many versions of it a long snapshot keeps.
  PRIMARY KEY (shadow_id, applied_lsn)
);

CREATE TABLE IF NOT EXISTS understudy.position (
  shadow_id            text PRIMARY KEY,
  source_head_lsn      pg_lsn NOT NULL,
  sent_lsn             pg_lsn NOT NULL,
  received_lsn         pg_lsn NOT NULL,
  durable_lsn          pg_lsn NOT NULL,
  applied_lsn          pg_lsn NOT NULL,
  lag_ms               bigint NOT NULL,
  transactions_applied bigint NOT NULL,
  rows_applied         bigint NOT NULL,
  spool_bytes          bigint NOT NULL,
  source_wal_bytes     bigint NOT NULL,
  -- Bytes a second by which that grows, averaged over about half a minute.
  source_wal_rate      double precision NOT NULL DEFAULT 0,
  -- Since the lag passed max_lag_ms, until it is half of that (src/core/lateness.ts).
  is_late              boolean NOT NULL DEFAULT false,
  updated_at           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS understudy.request (
  request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shadow_id  text NOT NULL,
  kind       text NOT NULL,
  state      text NOT NULL,
  target_lsn pg_lsn,
  held_lsn   pg_lsn,
  -- Of a resume or reseed: [{schema, name}].
  tables     jsonb,
  deadline   timestamptz NOT NULL,
  code       text,
  message    text,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS understudy.chunking (
  shadow_id  text NOT NULL,
  source_oid bigint NOT NULL,
  strategy   text NOT NULL CHECK (strategy IN ('range', 'hash', 'whole')),
  column_name text,
  width      bigint NOT NULL,
  PRIMARY KEY (shadow_id, source_oid)
);

CREATE TABLE IF NOT EXISTS understudy.chunk (
  shadow_id    text NOT NULL,
  source_oid   bigint NOT NULL,
  chunk        bigint NOT NULL,
  rows         bigint NOT NULL,
  hash_xor     bigint NOT NULL,
  hash_sum     numeric NOT NULL,
  verified_lsn pg_lsn,
  PRIMARY KEY (shadow_id, source_oid, chunk)
);

CREATE TABLE IF NOT EXISTS understudy.dirty_chunk (
  shadow_id  text NOT NULL,
  source_oid bigint NOT NULL,
  chunk      bigint NOT NULL,
  lsn        pg_lsn NOT NULL,
  PRIMARY KEY (shadow_id, source_oid, chunk)
);

CREATE TABLE IF NOT EXISTS understudy.dirty_table (
  shadow_id  text NOT NULL,
  source_oid bigint NOT NULL,
  lsn        pg_lsn NOT NULL,
  PRIMARY KEY (shadow_id, source_oid)
);

CREATE TABLE IF NOT EXISTS understudy.schema_version (
  shadow_id  text NOT NULL,
  source_oid bigint NOT NULL,
  version    integer NOT NULL,
  -- Exact: commit record of the transaction that made it so. Else: it was so by then.
  lsn        pg_lsn NOT NULL,
  is_exact   boolean NOT NULL,
  -- The command's tag; 'START' for the first version, 'LOOK' for one that was found in the catalog.
  tag        text NOT NULL,
  change     text NOT NULL,
  verdict    text NOT NULL CHECK (verdict IN ('goes on', 'resume', 'reseed')),
  -- As in src/core/schema-shape.ts; null when the table is gone.
  shape      jsonb,
  seen_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shadow_id, source_oid, version)
);

CREATE TABLE IF NOT EXISTS understudy.verification (
  verification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shadow_id       text NOT NULL,
  scope           text NOT NULL,
  fence_lsn       pg_lsn,
  started_at      timestamptz NOT NULL,
  finished_at     timestamptz,
  tables          integer NOT NULL DEFAULT 0,
  chunks_read     bigint NOT NULL DEFAULT 0,
  rows_read       bigint NOT NULL DEFAULT 0,
  differences     bigint NOT NULL DEFAULT 0,
  unverified      text[] NOT NULL DEFAULT '{}'
);
`;

/** An expression that a restore from a dump, or a copy by CREATE DATABASE … TEMPLATE, changes. */
export const TARGET_IDENTITY = `(
  SELECT concat_ws('/', d.oid, 'understudy.shadow'::regclass::oid)
    FROM pg_catalog.pg_database d WHERE d.datname = current_database())`;
