import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { applyFixes, check, named } from '#test/check.ts';
import { createTestDatabase, TEST_VERSIONS, type TestDatabase } from '#test/postgres.ts';

const TABLES = `
  CREATE SCHEMA shop;
  CREATE TABLE shop.plain (id serial PRIMARY KEY);
  CREATE TABLE shop.secret (id int PRIMARY KEY);
  ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY;
  CREATE POLICY mine ON shop.secret TO pg_monitor USING (id > 0);`;

/** A role that may log in and nothing else, with the endpoint to do so. */
async function createRole(db: TestDatabase, suffix: string) {
  const role = `${db.name}_${suffix}`;
  await db.session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass' NOSUPERUSER`);
  db.dropRoleAfterwards(role);
  return { role, endpoint: { ...db.endpoint, user: role, password: 'zqpass' } };
}

test.each(TEST_VERSIONS)(
  'on %i a role without rights is told each of them, and the fixes grant what is needed (trap 13)',
  async (version) => {
    await using source = await createTestDatabase(version, TABLES);
    await using target = await createTestDatabase(version, 'CREATE SCHEMA shop');
    const reader = await createRole(source, 'reader');
    const writer = await createRole(target, 'writer');
    // The owner is a role of its own, as on any well-kept production.
    const owner = await createRole(source, 'owner');
    await source.session.query(
      `GRANT ALL ON SCHEMA shop TO ${owner.role};
       ALTER TABLE shop.plain OWNER TO ${owner.role}; ALTER TABLE shop.secret OWNER TO ${owner.role};
       ALTER TABLE shop.secret FORCE ROW LEVEL SECURITY`,
    );
    const sides = { source: reader.endpoint, target: writer.endpoint };
    const before = await check(sides);
    expect(named(before)).toEqual(
      [
        `publication-privilege role "${reader.role}"`,
        `replication-privilege role "${reader.role}"`,
        'row-security table "shop"."secret"',
        'select-privilege table "shop"."plain"',
        'select-privilege table "shop"."secret"',
        'sequence-privilege sequence "shop"."plain_id_seq"',
        'table-ownership table "shop"."plain"',
        'table-ownership table "shop"."secret"',
        `target-create-privilege role "${writer.role}"`,
        `target-replica-role role "${writer.role}"`,
        'target-schema-privilege schema "shop"',
      ].toSorted(),
    );
    expect(named(before, 'info')).toEqual(
      expect.arrayContaining([
        `activity-hidden role "${reader.role}"`,
        `target-origin role "${writer.role}"`,
      ]),
    );

    const admin = { source: source.session, target: target.session };
    await applyFixes(before, admin);
    const after = await check(sides);
    expect(named(after)).toEqual([]);
    // The parameter's grant belongs to the server and would keep the role from being dropped.
    await target.session.query(`DROP OWNED BY ${writer.role}`);
  },
);

test('with the grants that it asks for, a role uses replication origins', async () => {
  await using source = await createTestDatabase(15);
  await using target = await createTestDatabase(15);
  const writer = await createRole(target, 'writer');
  const sides = { source: source.endpoint, target: writer.endpoint };
  const before = await check(sides);
  const origin = before.findings.find(({ id }) => id === 'target-origin');
  await target.session.query(origin?.fix?.text ?? '');
  expect((await check(sides)).findings.map(({ id }) => id)).not.toContain('target-origin');
});

test('a partition is read through its own rights, and a sequence of a default counts', async () => {
  await using source = await createTestDatabase(
    17,
    `CREATE SEQUENCE public.numbers;
     CREATE TABLE public.a (id int PRIMARY KEY DEFAULT nextval('public.numbers'));
     CREATE SEQUENCE public.standing_alone;
     CREATE TABLE public.apart (id serial PRIMARY KEY);
     CREATE TABLE public.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
     CREATE TABLE public.part PARTITION OF public.parts DEFAULT;`,
  );
  await using target = await createTestDatabase(17);
  const reader = await createRole(source, 'reader');
  await source.session.query(`GRANT SELECT ON public.a, public.parts TO ${reader.role}`);
  const result = await check(
    { source: reader.endpoint, target: target.endpoint },
    { isFollowed: false, selection: { ...EVERYTHING, exclude: ['apart'] } },
  );
  expect(named(result)).toEqual([
    'select-privilege table "public"."part"',
    'sequence-privilege sequence "public"."numbers"',
    'sequence-privilege sequence "public"."standing_alone"',
  ]);
});

test('source and target may share a server but not a database', async () => {
  await using db = await createTestDatabase(18);
  const result = await check({ source: db.endpoint, target: db.endpoint });
  expect(named(result)).toEqual([`same-database database "${db.name}"`]);
});

test('a read-only database is refused, and the fix is effective for new sessions', async () => {
  await using source = await createTestDatabase(14);
  await using target = await createTestDatabase(14);
  const sides = { source: source.endpoint, target: target.endpoint };
  for (const { name, session } of [source, target]) {
    await session.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`);
  }
  const before = await check(sides);
  expect(named(before)).toEqual([
    `source-read-only database "${source.name}"`,
    `target-read-only database "${target.name}"`,
  ]);
  // From sessions that are read-only themselves, as the operator's are.
  await using onSource = await openSession(source.endpoint, { applicationName: 'understudy test' });
  await using onTarget = await openSession(target.endpoint, { applicationName: 'understudy test' });
  await applyFixes(before, { source: onSource, target: onTarget });
  expect(named(await check(sides))).toEqual([]);
});
