import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { planRowHashes } from './row-hash-plan.ts';
import { VECTORS } from './row-hash-vectors.ts';
import { columnHashExpression, type Form, formOf, rowHashExpression } from './row-hash.ts';

async function hashes(session: Session, sql: string): Promise<readonly (string | null)[]> {
  return (await session.query(sql)).map(({ hash }) => hash ?? null);
}

async function rowHashes(session: Session, table: string, types: readonly (string | undefined)[]) {
  const columns = types.map((type, index) => ({ column: `c${index}`, form: formOf(type) }));
  const order = 'ORDER BY n';
  return hashes(
    session,
    `SELECT ${rowHashExpression(columns, 't')} AS hash FROM ${table} AS t ${order}`,
  );
}

test.each([
  [14, 18],
  [18, 18],
  [15, 17],
  [16, 16],
] as const)(
  'from %i to %i, values of every type hash alike on both and apart from each other (trap 22)',
  async (from, to) => {
    await using source = await createTestDatabase(from);
    await using target = await createTestDatabase(to);
    const columns = Object.keys(VECTORS).map(
      (type) => `"${type}" pg_catalog.${type === 'char' ? '"char"' : type}`,
    );
    await source.session.query(`CREATE TABLE public.t (${columns.join(', ')})`);
    const tables = await readTables(source.session, EVERYTHING);
    const plans = await planRowHashes({ source: source.session, target: target.session, tables });
    const plan = plans.get(tables[0]!.oid)!;
    expect(plan.unverified).toEqual([]);
    expect(plan.compared.filter(({ form }) => form === 'md5')).toEqual([]);
  },
);

test('what can be compared does not depend on the encoding', async () => {
  await using source = await createTestDatabase(15);
  const latin = `${source.name}_latin`;
  await source.session.query(
    `CREATE DATABASE ${latin} ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`,
  );
  try {
    await using other = await openSession(
      { ...source.endpoint, database: latin },
      { applicationName: 'understudy test' },
    );
    const sql = `CREATE TYPE public.mood AS ENUM ('schön', 'ä');
      CREATE TABLE public.t (id int, a text, b public.mood, c text[], d char(9), e bytea);
      INSERT INTO public.t VALUES (1, 'Größe', 'schön', '{ü,NULL}', 'ö', '\\xfe'), (2, NULL, NULL, NULL, NULL, NULL)`;
    await source.session.query(sql);
    await other.query(sql);
    const tables = await readTables(source.session, EVERYTHING);
    const plans = await planRowHashes({ source: source.session, target: other, tables });
    const { compared, unverified } = plans.get(tables[0]!.oid)!;
    expect(unverified).toEqual([]);
    const query = `SELECT ${rowHashExpression(compared, 't')} AS hash FROM public.t ORDER BY id`;
    expect(await hashes(other, query)).toEqual(await hashes(source.session, query));
  } finally {
    await source.session.query(`DROP DATABASE ${latin} WITH (FORCE)`);
  }
});

// Trap 22, and what a user may define: each list holds values that something calls equal.
const PAIRS = `
  CREATE TYPE public.pair AS (a numeric, b text);
  CREATE TYPE public.mood AS ENUM ('sad', 'Sad');
  CREATE DOMAIN public.amount AS numeric;
  CREATE DOMAIN public.amounts AS public.amount[];
  CREATE COLLATION public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
  CREATE TYPE public.floats AS RANGE (subtype = float8)`;
const USER_VALUES: Readonly<Record<string, readonly string[]>> = {
  'public.pair': ['(1,a)', '(1.0,a)', '(-1,a)', '(,)', '(1,)', '(,"")'],
  'public.mood': ['sad', 'Sad'],
  'public.amount': ['1', '1.0', '-1'],
  'public.amounts': ['{1}', '{1.0}', '{}', '{NULL}'],
  'text COLLATE public.ci': ['a', 'A', 'a '],
  'varchar(9) COLLATE public.ci': ['a', 'A'],
  'char(3) COLLATE public.ci': ['a', 'A'],
  'public.floats': ['[0,1)', '[-0,1)', 'empty'],
  'public.mood[]': ['{sad}', '{Sad}', '{NULL}'],
  'public.pair[]': ['{"(1,a)"}', '{"(1.0,a)"}'],
  regclass: ['pg_class', 'pg_type'],
  regtype: ['integer', 'bigint'],
  xid: ['0', '4294967295'],
  tid: ['(0,1)', '(1,0)'],
  oidvector: ['1 2', '12'],
  int2vector: ['1 2', '12'],
  jsonpath: ['$.a', '$."b"'],
  pg_snapshot: ['1:1:', '1:2:'],
  refcursor: ['a', 'A'],
};

test.each([14, 18] as const)(
  'on %i, values of other types hash apart, NULL included (trap 22)',
  async (version) => {
    await using db = await createTestDatabase(version, PAIRS);
    for (const [type, values] of Object.entries(USER_VALUES)) {
      await db.session.query(
        `DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (n int GENERATED ALWAYS AS IDENTITY, v ${type});
       INSERT INTO public.t (v) VALUES (NULL)${values.map((value) => `, ('${value}')`).join('')}`,
      );
      const tables = await readTables(db.session, { ...EVERYTHING, tables: ['public.t'] });
      const plans = await planRowHashes({ source: db.session, target: db.session, tables });
      const { compared } = plans.get(tables[0]!.oid)!;
      const column = compared.find((candidate) => candidate.column === 'v')!;
      const found = await hashes(
        db.session,
        `SELECT ${columnHashExpression(column, 't')} AS hash FROM public.t ORDER BY n`,
      );
      expect([type, new Set(found).size]).toEqual([type, values.length + 1]);
      expect([type, found.includes(null)]).toEqual([type, false]);
    }
  },
);

test('NULL is not empty, and values do not trade places or flow into each other', async () => {
  await using db = await createTestDatabase(
    18,
    `CREATE TABLE public.t (n int, c0 text, c1 text, c2 numeric, c3 numeric, c4 bytea);
     INSERT INTO public.t VALUES
       (1, 'a', 'b', 1, 2, ''), (2, 'b', 'a', 1, 2, ''), (3, 'ab', '', 1, 2, ''), (4, '', 'ab', 1, 2, ''),
       (5, NULL, 'ab', 1, 2, ''), (6, 'ab', NULL, 1, 2, ''), (7, 'a', 'b', 2, 1, ''), (8, 'a', 'b', NULL, 2, ''),
       (9, 'a', 'b', 1, NULL, ''), (10, 'a', 'b', 1, 2, NULL), (11, NULL, NULL, NULL, NULL, NULL),
       (12, 'a', 'a', 1, 1, ''), (13, 'b', 'b', 2, 2, '')`,
  );
  const found = await rowHashes(db.session, 'public.t', [
    'text',
    'text',
    'numeric',
    'numeric',
    'bytea',
  ]);
  expect(new Set(found).size).toBe(13);
  expect(found).not.toContain(null);
});

test('every bit pattern of NaN has the text NaN, and is one value', async () => {
  await using db = await createTestDatabase(18);
  const form: Form = 'float';
  const nan = columnHashExpression({ column: 'v', form }, 't');
  const found = await hashes(
    db.session,
    `SELECT ${nan} AS hash FROM (VALUES ('NaN'::float8), (-('NaN'::float8))) AS t (v)`,
  );
  expect(new Set(found).size).toBe(1);
});

test('a table of 1,600 columns is hashed whole', async () => {
  await using db = await createTestDatabase(14);
  const names = Array.from({ length: 1_600 }, (_, index) => `c${index}`);
  const types = names.map((_, index) => (['int2', 'numeric', 'bool'] as const)[index % 3]!);
  await db.session.query(
    `CREATE TABLE public.t (${names.map((name, index) => `${name} ${types[index]}`).join(', ')});
     INSERT INTO public.t (c0) VALUES (1), (1); UPDATE public.t SET c1599 = 7 WHERE ctid = '(0,1)'`,
  );
  const columns = names.map((column, index) => ({ column, form: formOf(types[index]) }));
  const found = await hashes(
    db.session,
    `SELECT ${rowHashExpression(columns, 't')} AS hash FROM public.t AS t`,
  );
  expect(new Set(found).size).toBe(2);
});

test('md5, for servers whose own hashes differ, keeps the same values apart', async () => {
  await using older = await createTestDatabase(14);
  await using newer = await createTestDatabase(18);
  for (const [type, values] of Object.entries(VECTORS)) {
    const name = type === 'char' ? '"char"' : type;
    const rows = values.map((value) => `(${value}::pg_catalog.${name})`).join(', ');
    const sql = `SELECT ${columnHashExpression({ column: 'v', form: 'md5' }, 't')} AS hash
                   FROM (VALUES ${rows}, (NULL)) AS t (v)`;
    const found = await hashes(older.session, sql);
    expect([type, new Set(found).size]).toEqual([type, values.length + 1]);
    expect([type, await hashes(newer.session, sql)]).toEqual([type, found]);
  }
});
