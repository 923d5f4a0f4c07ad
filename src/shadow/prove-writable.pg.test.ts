import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import type { Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase, TEST_VERSIONS } from '#test/postgres.ts';

import { findRefusedWrites } from './prove-writable.ts';
import { createPublication, publicationSql, readPublication } from './publication.ts';

const ROLL_BACK = new Error('roll back');

/** What the proof says of each table while all are published: `name: UPDATE 55000, DELETE 55000`. */
async function verdicts(session: Session, tables: readonly Table[]): Promise<readonly string[]> {
  let refused: readonly string[] = [];
  const work = session.transaction(async () => {
    await session.query(publicationSql('probe', tables));
    refused = (await findRefusedWrites(session, tables)).map(
      ({ table, kind, sqlstate }) => `${table.name} ${kind} ${sqlstate}`,
    );
    throw ROLL_BACK;
  });
  await expect(work).rejects.toBe(ROLL_BACK);
  return refused;
}

const SCHEMA = `
  CREATE TABLE public.good (id int PRIMARY KEY, note text);
  CREATE TABLE public.identity_only (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
  CREATE TABLE public.indexed (a int NOT NULL, b int);
  CREATE UNIQUE INDEX indexed_a ON public.indexed (a);
  ALTER TABLE public.indexed REPLICA IDENTITY USING INDEX indexed_a;
  CREATE TABLE public.whole (a int);
  ALTER TABLE public.whole REPLICA IDENTITY FULL;
  CREATE TABLE public.keyless (a int);
  CREATE TABLE public.deferred (id int PRIMARY KEY DEFERRABLE);
  CREATE TABLE public.nothing (id int PRIMARY KEY);
  ALTER TABLE public.nothing REPLICA IDENTITY NOTHING;
  CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'a trigger of production fired'; END $$;
  CREATE TRIGGER noisy BEFORE UPDATE OR DELETE ON public.good EXECUTE FUNCTION public.fail();`;

test.each(TEST_VERSIONS)(
  'on %i the server names the tables that a publication would break, and nothing fires (trap 7)',
  async (version) => {
    await using db = await createTestDatabase(version, SCHEMA);
    const { session } = db;
    const refused = await verdicts(session, await readTables(session, EVERYTHING));
    expect(refused).toEqual([
      'deferred UPDATE 55000',
      'deferred DELETE 55000',
      'keyless UPDATE 55000',
      'keyless DELETE 55000',
      'nothing UPDATE 55000',
      'nothing DELETE 55000',
    ]);
    // And production agrees, once the publication is real.
    const tables = (await readTables(session, EVERYTHING)).filter(({ name }) => name !== 'good');
    await session.query(publicationSql('real', tables));
    const failed: string[] = [];
    for (const { name } of tables) {
      await session.query(`DELETE FROM public.${name}`).catch((error: unknown) => {
        failed.push(`${name} DELETE ${sqlstateOf(error)}`);
      });
    }
    expect(failed).toEqual(refused.filter((line) => line.includes('DELETE')));
  },
);

test('on 18 a generated key column is refused too', async () => {
  await using db = await createTestDatabase(
    18,
    `CREATE TABLE public.generated (a int NOT NULL, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY)`,
  );
  const tables = await readTables(db.session, EVERYTHING);
  expect(await verdicts(db.session, tables)).toEqual([
    'generated UPDATE 42P10',
    'generated DELETE 42P10',
  ]);
});

test('a publication that would break a table is not made', async () => {
  await using db = await createTestDatabase(18, SCHEMA);
  const { session, name } = db;
  const tables = await readTables(session, EVERYTHING);
  await expect(createPublication({ session, name, tables })).rejects.toMatchObject({
    code: 'PREFLIGHT_REFUSED',
    message: 'a publication would make UPDATE fail on "public"."deferred"',
  });
  expect(await readPublication(session, name)).toBeUndefined();
});

test('tables that their owner may not write to are judged by their keys', async () => {
  await using db = await createTestDatabase(16, SCHEMA);
  const { session, name } = db;
  const role = `${name}_owner`;
  await session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass';
    GRANT CREATE ON DATABASE ${name} TO ${role}`);
  db.dropRoleAfterwards(role);
  const tables = await readTables(session, EVERYTHING);
  for (const table of tables) {
    await session.query(`ALTER TABLE public.${table.name} OWNER TO ${role};
      REVOKE UPDATE, DELETE ON public.${table.name} FROM ${role}`);
  }
  await using owner = await openSession(
    { ...db.endpoint, user: role, password: 'zqpass' },
    { applicationName: 'understudy test' },
  );
  expect(await verdicts(owner, tables)).toEqual([
    'deferred UPDATE 42501',
    'deferred DELETE 42501',
    'keyless UPDATE 42501',
    'keyless DELETE 42501',
    'nothing UPDATE 42501',
    'nothing DELETE 42501',
  ]);
  await session.query(`REASSIGN OWNED BY ${role} TO postgres; DROP OWNED BY ${role}`);
});
