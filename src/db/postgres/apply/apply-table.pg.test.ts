import { describe, expect, test } from 'vitest';

import { createTestDatabase } from '#test/postgres.ts';

import { type ApplyTable, deleteMany, deleteOne, updateMany, updateOne } from './apply-table.ts';
import { readTargetColumns, tableKey } from './target-columns.ts';

const DDL = `
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE DOMAIN public.relation AS regclass;
CREATE DOMAIN public.relations AS public.relation;
CREATE TYPE public.pair AS (a int, b int);
CREATE FUNCTION public.pair_of(text) RETURNS public.pair IMMUTABLE LANGUAGE sql AS $$ SELECT ROW(1, 2)::public.pair $$;
CREATE CAST (text AS public.pair) WITH FUNCTION public.pair_of(text);
CREATE TABLE public.t (
  email ext.citext, k varchar(10), n numeric(6,2), c "char", x xml, r regclass, d public.relations, p public.pair, a int[],
  PRIMARY KEY (email, k));`;

const NAME = { schema: 'public', name: 't' };

describe('columns of the target', () => {
  test('say how their values are cast and compared', async () => {
    await using db = await createTestDatabase(18, DDL);
    const columns = (await readTargetColumns(db.session, [NAME])).get(tableKey(NAME));
    const of = (name: string) => columns?.get(name);
    expect(of('email')?.equality).toBe('OPERATOR("ext".=)');
    expect(of('k')).toMatchObject({
      equality: '=',
      typeModifier: 14,
      typeName: expect.any(String),
    });
    expect(of('n')).toMatchObject({ typeName: 'numeric(6,2)', isArray: false });
    expect(of('a')?.isArray).toBe(true);
    // A cast of regclass from text does not read the numbers that it writes; a user's may do anything.
    const isCastInput = ['email', 'k', 'n', 'c', 'x', 'a', 'r', 'd', 'p'].map(
      (name) => of(name)?.isCastInput,
    );
    expect(isCastInput).toEqual([true, true, true, true, true, true, false, false, false]);
  });

  test('a table that is not there has none', async () => {
    await using db = await createTestDatabase(18);
    expect((await readTargetColumns(db.session, [NAME])).size).toBe(0);
  });
});

test('the key’s index serves each statement, also where `=` is an extension’s own', async () => {
  // Under the empty search_path `citext = citext` means text = text, which no index of citext serves.
  await using db = await createTestDatabase(18, DDL);
  const { session } = db;
  const columns = (await readTargetColumns(session, [NAME])).get(tableKey(NAME));
  const table: ApplyTable = {
    oid: 1,
    name: NAME,
    keyIndexes: [0, 1],
    columns: ['email', 'k', 'n'].map((name) => columns!.get(name)!),
    format: 'text',
  };
  await session.query(
    'SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off',
  );
  const statements = [
    deleteOne(table),
    updateOne(table, ''),
    deleteMany(table),
    updateMany(table, '2'),
  ];
  for (const { sql } of statements) {
    const rows = await session.query(
      `EXPLAIN (GENERIC_PLAN, COSTS OFF) ${sql.replaceAll(/unnest\(([^)]*)\)/g, (_, list: string) => `unnest(${list.replaceAll(/\$\d+/g, '$&::text[]')})`)}`,
    );
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    expect(plan).toMatch(/Index Scan using t_pkey/);
    expect(plan).toMatch(/Index Cond: .*email.*k/);
  }
});
