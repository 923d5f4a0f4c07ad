import { anyOf, type Item } from './item.ts';

/** What hangs on tables and may act on what is applied, or be lost on the way. `role` is made by the test. */
export function objectItems(role: string): readonly Item[] {
  return [
    {
      name: 'triggers of every kind, ENABLE ALWAYS and REPLICA among them',
      sql: `
CREATE TABLE hell.audited (id int PRIMARY KEY, v text, touched int NOT NULL DEFAULT 0);
CREATE TABLE hell.audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who text, what text);
CREATE FUNCTION hell.write_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO hell.audit (who, what) VALUES ('zqrow ' || TG_NAME, 'zqrow ' || TG_OP);
  RETURN NULL;
END $$;
CREATE FUNCTION hell.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.touched := NEW.touched + 1;
  RETURN NEW;
END $$;
CREATE FUNCTION hell.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'zqrow: not here';
END $$;
CREATE TRIGGER "Ordinary; one" AFTER INSERT OR UPDATE OR DELETE ON hell.audited FOR EACH ROW EXECUTE FUNCTION hell.write_audit();
CREATE TRIGGER always_after AFTER UPDATE ON hell.audited FOR EACH ROW EXECUTE FUNCTION hell.write_audit('a''b;');
ALTER TABLE hell.audited ENABLE ALWAYS TRIGGER always_after;
CREATE TRIGGER always_before BEFORE UPDATE ON hell.audited FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v) EXECUTE FUNCTION hell.touch();
ALTER TABLE hell.audited ENABLE ALWAYS TRIGGER always_before;
CREATE TRIGGER on_replica BEFORE INSERT OR UPDATE OR DELETE ON hell.audited FOR EACH ROW EXECUTE FUNCTION hell.refuse();
ALTER TABLE hell.audited ENABLE REPLICA TRIGGER on_replica;
CREATE TRIGGER statement_too AFTER TRUNCATE OR INSERT ON hell.audited FOR EACH STATEMENT EXECUTE FUNCTION hell.write_audit();
ALTER TABLE hell.audited ENABLE ALWAYS TRIGGER statement_too;
CREATE TRIGGER disabled BEFORE INSERT ON hell.audited FOR EACH ROW EXECUTE FUNCTION hell.refuse();
ALTER TABLE hell.audited DISABLE TRIGGER disabled;
CREATE CONSTRAINT TRIGGER at_the_end AFTER UPDATE ON hell.audited DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hell.write_audit();
COMMENT ON TRIGGER disabled ON hell.audited IS 'a trigger''s comment;';
INSERT INTO hell.audited SELECT i, 'zqrow ' || i FROM generate_series(1, 10) i;
-- On partitions: the parent's mode is one thing, a partition's another.
CREATE TABLE hell.audited_parts (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE hell.audited_parts_0 PARTITION OF hell.audited_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hell.audited_parts_1 PARTITION OF hell.audited_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TRIGGER parts AFTER INSERT OR UPDATE ON hell.audited_parts FOR EACH ROW EXECUTE FUNCTION hell.write_audit();
ALTER TABLE hell.audited_parts_0 ENABLE ALWAYS TRIGGER parts;
INSERT INTO hell.audited_parts SELECT i, 'zqrow' FROM generate_series(1, 10) i;`,
      changes: [
        ({ salt }) => [
          `UPDATE hell.audited SET v = '${salt}' WHERE id = ${anyOf('hell.audited', 'id', salt)}`,
          `INSERT INTO hell.audited SELECT max(id) + 1, '${salt}' FROM hell.audited`,
          `DELETE FROM hell.audited WHERE id = (SELECT min(id) FROM hell.audited)`,
          `UPDATE hell.audited_parts SET v = '${salt}' WHERE id = ${anyOf('hell.audited_parts', 'id', salt)}`,
          `DELETE FROM hell.audit WHERE id < (SELECT max(id) - 100 FROM hell.audit)`,
        ],
        ({ salt, mayTruncate }) => [
          mayTruncate ? 'TRUNCATE hell.audited' : 'DELETE FROM hell.audited',
          `INSERT INTO hell.audited SELECT i, '${salt}' FROM generate_series(1, 10) i`,
        ],
      ],
    },
    {
      name: 'rules, ENABLE ALWAYS among them',
      sql: `
CREATE TABLE hell.ruled (id int PRIMARY KEY, v text);
CREATE TABLE hell.rule_log (id serial PRIMARY KEY, v text);
INSERT INTO hell.ruled SELECT i, 'zqrow ' || i FROM generate_series(1, 10) i;
CREATE RULE also AS ON INSERT TO hell.ruled DO ALSO INSERT INTO hell.rule_log (v) VALUES (NEW.v);
CREATE RULE "also; always" AS ON DELETE TO hell.ruled DO ALSO INSERT INTO hell.rule_log (v) VALUES (OLD.v || ';');
ALTER TABLE hell.ruled ENABLE ALWAYS RULE "also; always";
CREATE RULE on_replica AS ON UPDATE TO hell.ruled DO INSTEAD NOTHING;
ALTER TABLE hell.ruled ENABLE REPLICA RULE on_replica;
CREATE RULE off AS ON INSERT TO hell.ruled DO INSTEAD NOTHING;
ALTER TABLE hell.ruled DISABLE RULE off;
COMMENT ON RULE also ON hell.ruled IS 'a rule''s comment;';
CREATE VIEW hell.writable AS SELECT id, v FROM hell.ruled WHERE id > 0 WITH CASCADED CHECK OPTION;
CREATE RULE through AS ON UPDATE TO hell.writable DO INSTEAD UPDATE hell.ruled SET v = NEW.v WHERE id = OLD.id;`,
      changes: [
        ({ salt }) => [
          `INSERT INTO hell.ruled SELECT coalesce(max(id), 0) + 1, '${salt}' FROM hell.ruled`,
          `UPDATE hell.ruled SET v = '${salt}' WHERE id = ${anyOf('hell.ruled', 'id', salt)}`,
          `UPDATE hell.writable SET v = '${salt}w' WHERE id = ${anyOf('hell.ruled', 'id', `${salt}w`)}`,
          `DELETE FROM hell.ruled WHERE id = (SELECT min(id) FROM hell.ruled)`,
          `DELETE FROM hell.rule_log WHERE id < (SELECT max(id) - 50 FROM hell.rule_log)`,
        ],
      ],
    },
    {
      name: 'row security, forced',
      sql: `
CREATE TABLE hell.secret (id int PRIMARY KEY, owner name NOT NULL DEFAULT current_user, v text);
ALTER TABLE hell.secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "nobody; at all" ON hell.secret AS RESTRICTIVE USING (false) WITH CHECK (false);
CREATE POLICY own ON hell.secret FOR SELECT TO ${role} USING (owner = current_user);
COMMENT ON POLICY own ON hell.secret IS 'a policy;';
INSERT INTO hell.secret SELECT i, 'zqrow', 'zqrow ' || i FROM generate_series(1, 10) i;`,
      changes: [
        ({ salt }) => [
          `UPDATE hell.secret SET v = '${salt}' WHERE id = ${anyOf('hell.secret', 'id', salt)}`,
          `INSERT INTO hell.secret SELECT max(id) + 1, 'zqrow', '${salt}' FROM hell.secret`,
          `DELETE FROM hell.secret WHERE id = (SELECT min(id) FROM hell.secret)`,
        ],
      ],
    },
    {
      name: 'unlogged and temporary tables',
      sql: `
CREATE UNLOGGED TABLE hell.unlogged (id int PRIMARY KEY, v text);
INSERT INTO hell.unlogged SELECT i, 'zqrow' FROM generate_series(1, 10) i;`,
      changes: [
        ({ salt }) => [
          `INSERT INTO hell.unlogged SELECT max(id) + 1, '${salt}' FROM hell.unlogged`,
          `CREATE TEMP TABLE passing (id int PRIMARY KEY, v text) ON COMMIT DROP`,
          `INSERT INTO passing VALUES (1, '${salt}')`,
          `UPDATE passing SET v = v || 'u'`,
        ],
      ],
    },
    {
      name: 'large objects, which are copied',
      sql: `
CREATE TABLE hell.pictures (id int PRIMARY KEY, picture oid, v text);
INSERT INTO hell.pictures SELECT i, lo_from_bytea(0, convert_to('zqrow ' || repeat(md5(i::text), i * 100), 'UTF8')), 'zqrow' FROM generate_series(1, 8) i;
INSERT INTO hell.pictures SELECT 9, lo_create(0), 'zqrow: empty';
SELECT lo_put(picture, 70000, 'zqrow: after a hole') FROM hell.pictures WHERE id = 1;
DO $$ DECLARE one oid := (SELECT picture FROM hell.pictures WHERE id = 2); BEGIN
  EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', one, 'a large object;');
  EXECUTE format('ALTER LARGE OBJECT %s OWNER TO ${role}', one);
  EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO PUBLIC', one);
END $$;`,
      changes: [
        ({ salt }) => [
          `UPDATE hell.pictures SET v = '${salt}' WHERE id = ${anyOf('hell.pictures', 'id', salt)}`,
          `DO $$ BEGIN PERFORM lo_get(picture) FROM hell.pictures; END $$`,
        ],
      ],
    },
    {
      name: 'views, materialised views, statistics objects, functions, comments, owners, grants',
      sql: `
CREATE TABLE hell.owned (id int PRIMARY KEY, v text, secret text, size numeric);
INSERT INTO hell.owned SELECT i, 'zqrow ' || i, 'zqrow', i % 7 FROM generate_series(1, 30) i;
CREATE VIEW hell.plain_view WITH (security_barrier) AS SELECT id, v FROM hell.owned WHERE id > 0;
CREATE MATERIALIZED VIEW hell.summary AS SELECT size, count(*) AS n FROM hell.owned GROUP BY size;
CREATE UNIQUE INDEX summary_size ON hell.summary (size);
CREATE MATERIALIZED VIEW hell.never_filled AS SELECT * FROM hell.summary WITH NO DATA;
CREATE STATISTICS hell.odd_statistics (ndistinct, dependencies, mcv) ON v, size FROM hell.owned;
CREATE STATISTICS hell.by_expression ON (lower(v)), (size * 2) FROM hell.owned;
ALTER STATISTICS hell.odd_statistics SET STATISTICS 321;
COMMENT ON STATISTICS hell.odd_statistics IS 'statistics;';
COMMENT ON TABLE hell.owned IS E'a table''s comment;\\n--\\n-- Name: x; Type: TABLE; Schema: y; Owner: -\\n--\\n';
COMMENT ON COLUMN hell.owned.v IS '$$ "q" \\\\';
COMMENT ON CONSTRAINT owned_pkey ON hell.owned IS 'the key';
COMMENT ON MATERIALIZED VIEW hell.summary IS 'a summary';
COMMENT ON SCHEMA hell IS 'hell; it''s "odd"';
CREATE INDEX owned_trgm ON hell.owned USING gin (v ext.gin_trgm_ops);
CREATE INDEX owned_expression ON hell.owned ((v || secret) DESC NULLS LAST) INCLUDE (size) WHERE size > 1;
CREATE INDEX owned_brin ON hell.owned USING brin (size) WITH (pages_per_range = 2);
CREATE INDEX owned_hash ON hell.owned USING hash (v);
ALTER INDEX hell.owned_expression ALTER COLUMN 1 SET STATISTICS 77;
ALTER TABLE hell.owned SET (fillfactor = 70, autovacuum_enabled = false), CLUSTER ON owned_pkey, ALTER v SET STATISTICS 55, ALTER v SET STORAGE MAIN, ALTER v SET (n_distinct = -0.5);
CREATE SEQUENCE hell.owned_sequence OWNED BY hell.owned.id;
ALTER TABLE hell.owned OWNER TO ${role};
GRANT SELECT (id, v), UPDATE (v) ON hell.owned TO PUBLIC;
GRANT ALL ON hell.owned TO ${role} WITH GRANT OPTION;
GRANT USAGE ON SCHEMA hell TO ${role};
ALTER VIEW hell.plain_view OWNER TO ${role};
REVOKE ALL ON FUNCTION hell.only_one(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hell.only_one(int) TO ${role};
GRANT USAGE ON TYPE hell.odd_enum TO ${role};
ALTER DEFAULT PRIVILEGES IN SCHEMA hell GRANT SELECT ON TABLES TO ${role};
CREATE PROCEDURE hell.odd_procedure(a int, INOUT b int DEFAULT 3) LANGUAGE sql AS 'SELECT a + b; -- ;';
CREATE FUNCTION hell.atomic(value int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN value < 0 THEN 0 ELSE value END; SELECT value; END;
CREATE AGGREGATE hell.odd_sum(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE OPERATOR hell.=== (leftarg = int, rightarg = int, function = int4eq);
CREATE CAST (hell.odd_enum AS int) WITH INOUT;
CREATE TEXT SEARCH CONFIGURATION hell.odd_search (COPY = pg_catalog.simple);
CREATE PUBLICATION hell_publication FOR TABLE hell.owned;
CREATE FUNCTION hell.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER hell_ddl ON ddl_command_end EXECUTE FUNCTION hell.on_ddl();`,
      changes: [
        ({ salt }) => [
          `UPDATE hell.owned SET v = '${salt}' WHERE id = ${anyOf('hell.owned', 'id', salt)}`,
          `UPDATE hell.owned SET id = id + 1000 WHERE id = (SELECT min(id) FROM hell.owned)`,
        ],
        () => ['REFRESH MATERIALIZED VIEW CONCURRENTLY hell.summary'],
      ],
    },
  ];
}

/** Nothing of it is in the WAL: its definition is all that is carried over. */
export const NOT_FOLLOWED: readonly string[] = ['hell.unlogged'];

export const EXTENSIONS_SQL = `
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE EXTENSION ltree SCHEMA ext;
CREATE EXTENSION pg_trgm SCHEMA ext;
CREATE EXTENSION btree_gist SCHEMA ext;
CREATE EXTENSION cube SCHEMA ext;
CREATE EXTENSION seg SCHEMA ext;
CREATE EXTENSION isn SCHEMA ext;
CREATE EXTENSION intarray SCHEMA ext;`;
