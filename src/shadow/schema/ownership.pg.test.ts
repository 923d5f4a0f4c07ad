import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import { dumpSchema } from '#src/db/postgres/schema-dump/schema-dump.ts';
import { parseLines, runInProcess, urlOf } from '#test/command.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';

vi.setConfig({ testTimeout: 120_000 });

/** Whatever carries an owner or a grant; $A, $B, $C are roles. */
const SHOP = `
  CREATE SCHEMA shop AUTHORIZATION $A;
  GRANT USAGE, CREATE ON SCHEMA shop TO $B WITH GRANT OPTION;
  GRANT USAGE ON SCHEMA shop TO $C;
  CREATE TYPE shop.mood AS ENUM ('good');
  REVOKE ALL ON TYPE shop.mood FROM PUBLIC; GRANT USAGE ON TYPE shop.mood TO $B;
  CREATE DOMAIN shop.small AS int; ALTER DOMAIN shop.small OWNER TO $B;
  CREATE FUNCTION shop.f(a int, b text DEFAULT ' OWNER TO x') RETURNS int LANGUAGE sql AS 'SELECT 1';
  ALTER FUNCTION shop.f OWNER TO $B; REVOKE ALL ON FUNCTION shop.f FROM PUBLIC;
  CREATE TABLE shop.a_log (id serial PRIMARY KEY, card text, "X TO y" text);
  ALTER TABLE shop.a_log OWNER TO $A;
  GRANT SELECT (id, "X TO y"), UPDATE ("X TO y") ON shop.a_log TO $B;
  GRANT SELECT ON shop.a_log TO PUBLIC;
  GRANT INSERT ON shop.a_log TO $C;
  COMMENT ON COLUMN shop.a_log.card IS 'kept';
  CREATE TABLE shop.audit (id int PRIMARY KEY);
  ALTER TABLE shop.audit OWNER TO $A;
  SET ROLE $A; REVOKE ALL ON shop.audit FROM $A; GRANT SELECT ON shop.audit TO $A, $B WITH GRANT OPTION; RESET ROLE;
  SET ROLE $B; GRANT SELECT ON shop.audit TO $C; RESET ROLE;
  CREATE TABLE shop.ghost (id int PRIMARY KEY); ALTER TABLE shop.ghost OWNER TO $C;
  CREATE SEQUENCE shop.own; ALTER SEQUENCE shop.own OWNER TO $B; GRANT USAGE ON SEQUENCE shop.own TO $A;
  CREATE VIEW shop.v AS SELECT id FROM shop.a_log; ALTER VIEW shop.v OWNER TO $B;
  CREATE MATERIALIZED VIEW shop.mv AS SELECT id FROM shop.audit; ALTER MATERIALIZED VIEW shop.mv OWNER TO $A;
  CREATE STATISTICS shop.st ON id, card FROM shop.a_log;
  CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id); ALTER TABLE shop.parts OWNER TO $A;
  CREATE TABLE shop.part_1 PARTITION OF shop.parts FOR VALUES FROM (0) TO (9); ALTER TABLE shop.part_1 OWNER TO $B;
  ALTER DEFAULT PRIVILEGES FOR ROLE $A IN SCHEMA shop GRANT SELECT ON TABLES TO $B;
  ALTER DEFAULT PRIVILEGES FOR ROLE $B REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
  INSERT INTO shop.a_log (card) VALUES ('zqrow'); INSERT INTO shop.audit VALUES (1)`;

type Roles = { readonly A: string; readonly B: string; readonly C: string };

function rolesOf({ name }: TestDatabase): Roles {
  return { A: `"${name} TO a"`, B: `${name}_b`, C: `${name}_c` };
}

const inRoles = (sql: string, roles: Roles): string =>
  sql.replaceAll(/\$([ABC])\b/g, (_, letter: keyof Roles) => roles[letter]);

/** Their rights go with the database, which is dropped first. */
async function makeRoles(db: TestDatabase, roles: readonly string[]): Promise<void> {
  for (const role of roles) {
    await db.session.query(`CREATE ROLE ${role}`);
    db.dropRoleAfterwards(role.replaceAll('"', ''));
  }
}

/** Statements about owners and grants of a dump, sorted. */
async function ownershipOf(db: TestDatabase): Promise<readonly string[]> {
  const script = await dumpSchema({
    endpoint: db.endpoint,
    exclude: { relations: [], schemas: [] },
    isWithOwners: true,
    signal: AbortSignal.timeout(60_000),
    timeoutMs: 60_000,
  });
  return script
    .split('\n')
    .filter((line) => /^ALTER .*OWNER TO|^GRANT |^REVOKE |^ALTER DEFAULT|SESSION AUTH/.test(line))
    .toSorted((a, b) => (a < b ? -1 : 1));
}

test('a superuser carries every owner and grant, and a missing role is named and left out', async () => {
  await using source = await createTestDatabase(14);
  await using target = await createTestDatabase(18);
  const roles = rolesOf(source);
  await makeRoles(source, Object.values(roles));
  await makeRoles(target, [roles.A, roles.B]);
  await source.session.query(inRoles(SHOP, roles));
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const checked = await runInProcess(['check', ...urls, '--json']);
  expect(
    parseLines(checked.stdout).filter(({ id }) => String(id).startsWith('owner')),
  ).toMatchObject([
    {
      id: 'owner-missing',
      severity: 'warn',
      object: `role "${roles.C}"`,
      cause: expect.stringContaining(
        'it owns 1 objects and has grants on 3, and the target does not',
      ),
      fix: { runOn: 'target', text: `CREATE ROLE "${roles.C}" NOLOGIN` },
    },
  ]);
  const cloned = await runInProcess(['clone', ...urls, '--json']);
  expect([cloned.code, cloned.stderr]).toEqual([0, '']);
  const notices = parseLines(cloned.stdout).flatMap(({ type, message }) =>
    type === 'notice' ? [String(message)] : [],
  );
  expect(notices.filter((text) => text.startsWith('owners and grants'))).toEqual([
    expect.stringMatching(
      /owner of TABLE shop.ghost.* role test_\w+_c does not exist on the target$/,
    ),
  ]);
  const [ours, theirs] = [await ownershipOf(source), await ownershipOf(target)];
  // Of a role that is missing; of schema public, with which servers come otherwise since 15; and of MAINTAIN,
  // a right that 14 did not know, so that its owner has not given it up.
  const isExpected = (line: string): boolean =>
    line.includes(roles.C) || /SCHEMA public|SESSION AUTH/.test(line);
  expect(ours.filter((line) => !theirs.includes(line) && !isExpected(line))).toEqual([
    `REVOKE SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE shop.audit FROM ${roles.A};`,
  ]);
  expect(theirs.filter((line) => !ours.includes(line) && !isExpected(line))).toEqual([
    'ALTER TABLE shop.ghost OWNER TO postgres;',
    `GRANT MAINTAIN ON TABLE shop.audit TO ${roles.A};`,
    `REVOKE ALL ON TABLE shop.audit FROM ${roles.A};`,
  ]);
  expect(theirs.length).toBeGreaterThan(25);
});

test('what a role without superuser rights may not give away stays its own, and it can go on', async () => {
  await using source = await createTestDatabase(15);
  await using target = await createTestDatabase(18);
  const roles = rolesOf(source);
  await makeRoles(source, Object.values(roles));
  const copier = `${target.name}_copier`;
  await makeRoles(target, [...Object.values(roles), copier]);
  await target.session.query(`
    ALTER ROLE ${copier} LOGIN PASSWORD 'zqpass';
    GRANT SET ON PARAMETER session_replication_role TO ${copier};
    GRANT CREATE ON DATABASE ${target.name} TO ${copier};
    GRANT ${roles.A} TO ${copier} WITH INHERIT TRUE, SET TRUE;
    GRANT ${roles.B} TO ${copier} WITH INHERIT FALSE, SET FALSE`);
  await source.session.query(inRoles(SHOP, roles));
  const endpoint = { ...target.endpoint, user: copier, password: 'zqpass' };
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(endpoint)];
  const checked = await runInProcess(['check', ...urls, '--json']);
  expect(
    parseLines(checked.stdout)
      .filter(({ id }) => String(id).startsWith('owner'))
      .map(({ id, object }) => `${String(id)} ${String(object)}`),
  ).toEqual([`owner-not-granted role "${roles.B}"`, `owner-not-granted role "${roles.C}"`]);
  const spool = await mkdtemp(join(tmpdir(), 'understudy-test-'));
  try {
    const follow = async (): Promise<void> => {
      const until = await source.session.query('SELECT pg_current_wal_lsn() AS lsn');
      const options = ['--follow', '--spool', spool, '--until-lsn', until[0]?.['lsn'] ?? ''];
      const cloned = await runInProcess(['clone', ...urls, ...options, '--json']);
      expect([cloned.code, cloned.stderr]).toEqual([0, '']);
    };
    await follow();
    await source.session.query(`
      INSERT INTO shop.audit SELECT i FROM generate_series(2, 50) i; DELETE FROM shop.audit WHERE id = 3;
      INSERT INTO shop.ghost VALUES (1); UPDATE shop.a_log SET card = 'zqrow 2'; TRUNCATE shop.audit`);
    await source.session.query('INSERT INTO shop.audit VALUES (77)');
    await follow();
  } finally {
    await rm(spool, { recursive: true });
  }
  const [rows] = await target.session.query(
    `SELECT (SELECT string_agg(id::text, ',') FROM shop.audit) AS audit, (SELECT card FROM shop.a_log) AS card,
            (SELECT count(*) FROM shop.ghost) AS ghosts`,
  );
  expect(rows).toEqual({ audit: '77', card: 'zqrow 2', ghosts: '1' });
  const owners = await target.session.query(
    `SELECT relname, relowner::regrole::text AS owner FROM pg_class
      WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'v', 'm', 'S', 'p') ORDER BY 1`,
  );
  expect(Object.fromEntries(owners.map(({ relname, owner }) => [relname, owner]))).toEqual({
    a_log: roles.A,
    a_log_id_seq: roles.A,
    audit: roles.A,
    ghost: copier,
    mv: roles.A,
    own: copier,
    part_1: copier,
    parts: roles.A,
    v: copier,
  });
  // It still writes by the owner's rights, which the source's owner has given up.
  const [rights] = await target.session.query(
    `SELECT has_table_privilege('${copier}', 'shop.audit', 'INSERT') AS may,
            has_column_privilege('${roles.B}', 'shop.a_log', 'id', 'SELECT') AS has_grant`,
  );
  expect(rights).toEqual({ may: 't', has_grant: 't' });
  expect((await runInProcess(['drop', ...urls])).code).toBe(0);
});

test('--owners skip leaves them out, and says so', async () => {
  await using source = await createTestDatabase(18);
  await using target = await createTestDatabase(18);
  const roles = rolesOf(source);
  await makeRoles(source, Object.values(roles));
  await source.session.query(inRoles(SHOP, roles));
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const options = [...urls, '--owners', 'skip', '--json'];
  const checked = await runInProcess(['check', ...options]);
  expect(
    parseLines(checked.stdout).filter(({ id }) => String(id).startsWith('owner')),
  ).toMatchObject([{ id: 'owners-not-carried', severity: 'info' }]);
  expect((await runInProcess(['clone', ...options])).code).toBe(0);
  const lines = await ownershipOf(target);
  expect(lines.filter((line) => !line.endsWith(' OWNER TO postgres;'))).toEqual([]);
});
