import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readServer } from '#src/db/postgres/catalog/server.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { LEDGER_SCHEMA, LEDGER_VERSION } from '#src/db/postgres/ledger-schema.ts';
import { applyFixes, check, named } from '#test/check.ts';
import { createTestDatabase, TEST_VERSIONS } from '#test/postgres.ts';

const OBJECTS = `
  CREATE SCHEMA shop;
  CREATE TYPE shop.status AS ENUM ('open', 'closed');
  CREATE DOMAIN shop.amount AS numeric CHECK (VALUE >= 0);
  CREATE TABLE shop.orders (id serial PRIMARY KEY, status shop.status);
  CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
  CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT;
  CREATE VIEW shop.open_orders AS SELECT id FROM shop.orders;
  CREATE SEQUENCE shop.numbers;
  CREATE FUNCTION shop.one(int, text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 1';
  CREATE PROCEDURE shop.two() LANGUAGE sql AS 'SELECT 1';`;

test.each(TEST_VERSIONS)(
  'on %i what is in the way on the target is moved, not dropped, by the fixes',
  async (version) => {
    await using source = await createTestDatabase(version, OBJECTS);
    await using target = await createTestDatabase(
      version,
      `${OBJECTS} INSERT INTO shop.orders (status) VALUES ('open'); CREATE TABLE shop.unrelated (a int)`,
    );
    const sides = { source: source.endpoint, target: target.endpoint };
    const before = await check(sides);
    expect(named(before)).toEqual(
      [
        'domain "shop"."amount"',
        'routine "shop"."one"(integer, text)',
        'routine "shop"."two"()',
        'sequence "shop"."numbers"',
        'table "shop"."orders"',
        'table "shop"."part"',
        'table "shop"."parts"',
        'type "shop"."status"',
        'view "shop"."open_orders"',
      ].map((object) => `target-object-exists ${object}`),
    );
    await applyFixes(before, { source: source.session, target: target.session });
    expect(named(await check(sides))).toEqual([]);
    const [kept] = await target.session.query(
      'SELECT count(*) AS rows FROM before_understudy_shop.orders',
    );
    expect(kept).toEqual({ rows: '1' });
  },
);

test('what is not selected may exist on the target, and so may what reads it', async () => {
  await using source = await createTestDatabase(
    15,
    `CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.b (id int PRIMARY KEY);
     CREATE VIEW public.of_a AS SELECT id FROM public.a;
     CREATE VIEW public.of_b AS SELECT id FROM public.b`,
  );
  await using target = await createTestDatabase(
    15,
    'CREATE VIEW public.b AS SELECT 1; CREATE TABLE public.of_a (x text); CREATE TABLE public.of_b (x text)',
  );
  const selection = { ...EVERYTHING, tables: ['a'] };
  const sides = { source: source.endpoint, target: target.endpoint };
  expect(named(await check(sides, { selection }))).toEqual([
    'target-object-exists table "public"."of_a"',
  ]);
});

async function recordShadow(source: Session, target: Session): Promise<void> {
  const server = await readServer(source);
  await target.query(LEDGER_SCHEMA);
  await target.execute(
    `INSERT INTO understudy.shadow (shadow_id, ledger_version, source_system_id, source_timeline,
       source_database, source_address, selection, is_followed, stream_format, source_wal_bytes_max,
       stopped_spool_bytes_max, phase)
     VALUES ('0badcafe', $1, $2, $3, $4, 'x', $5, true, 'text', 1, 1, 'copying')`,
    [
      LEDGER_VERSION,
      server.systemId ?? '',
      server.timeline ?? 0,
      server.database.name,
      JSON.stringify(EVERYTHING),
    ],
  );
}

test('a shadow that is resumed is not disturbed by its own tables, another one is', async () => {
  await using source = await createTestDatabase(14, OBJECTS);
  await using target = await createTestDatabase(18, OBJECTS);
  await recordShadow(source.session, target.session);
  const sides = { source: source.endpoint, target: target.endpoint };
  expect(named(await check(sides))).toEqual([]);
  const selection = { ...EVERYTHING, tables: ['shop.orders'] };
  expect(named(await check(sides, { selection }))).toContain(
    'target-object-exists table "shop"."orders"',
  );
});

test('other sessions of the target are a warning', async () => {
  await using source = await createTestDatabase(16);
  await using target = await createTestDatabase(16);
  await using other = await openSession(target.endpoint, { applicationName: 'somebody' });
  const result = await check({ source: source.endpoint, target: target.endpoint });
  expect(named(result, 'warn')).toContain(`target-sessions database "${target.name}"`);
  expect(result.findings.find(({ id }) => id === 'target-sessions')?.cause).toContain('somebody');
  expect(other.processId).toBeGreaterThan(0);
});

test('extensions must be there, creatable, and in the same schema', async () => {
  await using source = await createTestDatabase(
    15,
    `CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION adminpack;
     CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext;
     CREATE EXTENSION pg_visibility SCHEMA public`,
  );
  await using target = await createTestDatabase(
    17,
    'CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA public',
  );
  const sides = { source: source.endpoint, target: target.endpoint };
  const before = await check(sides);
  // adminpack ended with 16; there is nothing that could be installed.
  expect(named(before)).toEqual([
    'extension-missing extension "adminpack"',
    'extension-schema extension "hstore"',
  ]);
  await source.session.query('DROP EXTENSION adminpack');
  const admin = { source: source.session, target: target.session };
  await applyFixes(await check(sides), admin);
  expect(named(await check(sides))).toEqual([]);

  const role = `${target.name}_writer`;
  await target.session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass';
    GRANT CREATE ON DATABASE ${target.name} TO ${role}; GRANT CREATE ON SCHEMA public TO ${role}`);
  target.dropRoleAfterwards(role);
  const asRole = { ...sides, target: { ...target.endpoint, user: role, password: 'zqpass' } };
  // citext is trusted, so the role may create it; pg_visibility takes a superuser.
  const result = await check(asRole);
  expect(named(result)).toContain('extension-missing extension "pg_visibility"');
  expect(named(result)).not.toContain('extension-missing extension "citext"');
  await applyFixes(result, admin);
  expect(named(await check(asRole))).toEqual([]);
  await target.session.query(`DROP OWNED BY ${role}`);
});

test('what only a superuser may create is refused to another role', async () => {
  await using source = await createTestDatabase(
    16,
    `CREATE FOREIGN DATA WRAPPER nowhere;
     CREATE FUNCTION public.c(internal) RETURNS void LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_validator'`,
  );
  await using target = await createTestDatabase(16);
  const role = `${target.name}_writer`;
  await target.session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass';
    GRANT CREATE ON DATABASE ${target.name} TO ${role};
    GRANT SET ON PARAMETER session_replication_role TO ${role}`);
  target.dropRoleAfterwards(role);
  const to = { ...target.endpoint, user: role, password: 'zqpass' };
  const sides = { source: source.endpoint, target: to };
  const before = await check(sides);
  expect(named(before)).toEqual([
    'target-superuser foreign data wrapper nowhere',
    'target-superuser function public.c(internal)',
  ]);
  await applyFixes(before, { source: source.session, target: target.session });
  expect(named(await check(sides))).toEqual([]);
  await target.session.query(`DROP OWNED BY ${role}`);
});

test('a policy for a role that the target lacks is refused until the role is there', async () => {
  await using source = await createTestDatabase(14);
  await using target = await createTestDatabase(15);
  const role = `${source.name}_clerk`;
  for (const db of [source, target]) db.dropRoleAfterwards(role);
  await source.session.query(`CREATE ROLE ${role};
    CREATE TABLE public.t (id int PRIMARY KEY); CREATE POLICY p ON public.t TO ${role} USING (true)`);
  const sides = { source: source.endpoint, target: target.endpoint };
  const before = await check(sides);
  expect(named(before)).toEqual([`role-missing role "${role}"`]);
  await applyFixes(before, { source: source.session, target: target.session });
  expect(named(await check(sides))).toEqual([]);
});

test('other collations on the target are a warning', async () => {
  await using source = await createTestDatabase(16);
  await using target = await createTestDatabase(16);
  await source.session.query(
    `CREATE DATABASE ${source.name}_icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'`,
  );
  const icu = { ...source.endpoint, database: `${source.name}_icu` };
  const result = await check({ source: icu, target: target.endpoint });
  expect(named(result, 'warn')).toContain(`locale-differs database "${target.name}"`);
  await source.session.query(`DROP DATABASE ${source.name}_icu`);
});
