import { describe, expect, test } from 'vitest';

import { differences, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([18, 18], [14, 18]);

/** Rows that come one by one, by the hundred, that change their key, and that go. */
function writesTo(table: string, key: (number: string) => string): readonly string[] {
  const set = (number: string): string => `(SELECT ${key(number)})`;
  return [
    `INSERT INTO ${table} (k, note) SELECT ${key('i')}, 'a' FROM generate_series(1, 2) i`,
    `INSERT INTO ${table} (k, note) SELECT ${key('i')}, 'b' FROM generate_series(3, 200) i`,
    `UPDATE ${table} SET note = 'c' WHERE k = ${set('1')}`,
    `UPDATE ${table} SET note = 'd'`,
    `UPDATE ${table} SET k = ${set('1000')} WHERE k = ${set('7')}`,
    `UPDATE ${table} SET k = ${set('7')}, note = 'e' WHERE k = ${set('8')}`,
    `DELETE FROM ${table} WHERE k = ${set('9')}`,
    `DELETE FROM ${table} WHERE k IN (SELECT ${key('i')} FROM generate_series(20, 90) i)`,
    `BEGIN; DELETE FROM ${table} WHERE k = ${set('10')};
     INSERT INTO ${table} (k, note) VALUES (${set('10')}, 'f'); COMMIT`,
  ];
}

/** An expression of the type that gives each number another key. */
const KEYS: Readonly<Record<string, (number: string) => string>> = {
  int2: (i) => `(${i})::int2`,
  int8: (i) => `-(${i})::int8 * 4611686018427387`,
  text: (i) => `'key ' || chr(${i} % 26 + 65) || '\\' || ${i}`,
  'varchar(30)': (i) => `'ß' || ${i}`,
  'char(12)': (i) => `'c ' || ${i}`,
  uuid: (i) => `md5((${i})::text)::uuid`,
  // 1.0 and 1.00 are one key, of which the row keeps the form.
  numeric: (i) => `(${i})::numeric / 4`,
  float8: (i) => `(${i}) / 7.0::float8`,
  timestamptz: (i) => `'2024-01-01 00:00:00+00'::timestamptz + (${i}) * interval '1.000001 s'`,
  date: (i) => `'4000-01-01 BC'::date + (${i})`,
  bytea: (i) => `decode(md5((${i})::text), 'hex')`,
  inet: (i) => `'10.0.0.0'::inet + (${i})`,
  'bit(16)': (i) => `(${i})::bit(16)`,
  'int4[]': (i) => `ARRAY[${i}, NULL, 3]`,
  jsonb: (i) => `jsonb_build_object('a', ${i})`,
  interval: (i) => `(${i}) * interval '1 day 1 second'`,
  int4range: (i) => `int4range(${i}, (${i}) + 5)`,
  'public.positive': (i) => `(${i})::numeric(7,2)`,
  'public.pair': (i) => `ROW('p', ${i})::public.pair`,
  'ext.citext': (i) => `('MiXed ' || (${i}))::ext.citext`,
  'ext.ltree': (i) => `('Top.n' || (${i}))::ext.ltree`,
  'ext.hstore': (i) => `ext.hstore('a', (${i})::text)`,
};

const TYPES = `
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION ltree SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE DOMAIN public.positive AS numeric(7,2) CHECK (VALUE > 0);
CREATE TYPE public.pair AS (name text, amount numeric);`;

describe.each(PAIRS)('keys, from %i to %i', (...versions) => {
  const types = Object.keys(KEYS);
  const tables = types.map((_, i) => `public.by_${i}`);
  const ddlOf = (wanted: readonly string[]): string =>
    wanted
      .map(
        (type) =>
          `CREATE TABLE public.by_${types.indexOf(type)} (note text, k ${type} PRIMARY KEY);`,
      )
      .join('\n');

  test('of every type that has an order name their rows, in a text stream', async () => {
    await using pair = await followPair(versions, TYPES + ddlOf(types));
    expect(pair.shadow.streamFormat).toBe('text');
    // For the comparisons that we write here; the apply session finds them under an empty path.
    await pair.source.session.query('SET search_path = ext');
    for (const [i, type] of types.entries()) {
      for (const sql of writesTo(tables[i]!, KEYS[type]!)) await pair.source.session.query(sql);
    }
    expect(await differences(pair, ...tables)).toEqual([]);
  });

  test('of every safe type name their rows, in a binary stream', async () => {
    const safe = types.filter((type) => !/range|\./.test(type));
    await using pair = await followPair(versions, ddlOf(safe));
    expect(pair.shadow.streamFormat).toBe('binary');
    for (const type of safe) {
      const table = `public.by_${types.indexOf(type)}`;
      for (const sql of writesTo(table, KEYS[type]!)) await pair.source.session.query(sql);
      await pair.caughtUp();
    }
    const written = safe.map((type) => `public.by_${types.indexOf(type)}`);
    expect(await differences(pair, ...written)).toEqual([]);
  });

  test('of several columns, in the middle, behind dropped ones, by an index, enums and bits', async () => {
    const ddl = `
      CREATE TYPE public.mood AS ENUM ('z', 'a', 'so "la"');
      CREATE TABLE public.composite (note text, b text, x int, a int8, "k""" text, PRIMARY KEY (b, a));
      CREATE TABLE public.gaps (gone1 int, note text, gone2 text, id int, gone3 int, more text);
      ALTER TABLE public.gaps DROP gone1, DROP gone2, ADD PRIMARY KEY (id), DROP gone3, ADD late int DEFAULT 7;
      CREATE TABLE public.by_index (a int NOT NULL, b text NOT NULL, c text, pk int PRIMARY KEY, x int);
      CREATE UNIQUE INDEX by_index_ba ON public.by_index (b, a) INCLUDE (x);
      ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_index_ba;
      CREATE TABLE public.by_enum (e public.mood, b bit(3), n int, PRIMARY KEY (e, b));
      CREATE TABLE public.only_key (a int, b int, PRIMARY KEY (a, b));
      CREATE SCHEMA "We""ird.Schema";
      CREATE TABLE "We""ird.Schema"."Select ' \\ größe" ("Order" int, "s.c0" text, "$1" int PRIMARY KEY, t int, s text);`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    const odd = `"We""ird.Schema"."Select ' \\ größe"`;
    const all = ['composite', 'gaps', 'by_index', 'by_enum', 'only_key'].map(
      (name) => `public.${name}`,
    );
    const writes = [
      `INSERT INTO public.composite SELECT 'n', i % 5, i, i, i FROM generate_series(1, 100) i`,
      `INSERT INTO public.composite VALUES ('n', '1', 0, 12), ('n', '11', 0, 2)`,
      `UPDATE public.composite SET note = 'm' WHERE a % 3 = 0`,
      `UPDATE public.composite SET a = a + 1000 WHERE b = '2'`,
      `UPDATE public.composite SET b = 'moved' || a, x = NULL WHERE b = '3'`,
      `DELETE FROM public.composite WHERE b = '4' AND a > 50`,
      `INSERT INTO public.gaps (note, id) SELECT 'g', i FROM generate_series(1, 100) i`,
      `UPDATE public.gaps SET late = id, more = 'x' WHERE id % 2 = 0`,
      `UPDATE public.gaps SET id = id + 1000 WHERE id < 5`,
      `DELETE FROM public.gaps WHERE id BETWEEN 20 AND 30`,
      `INSERT INTO public.by_index SELECT i, 'b' || i, 'c', i, i FROM generate_series(1, 100) i`,
      // Neither the primary key nor what the index includes names the row.
      `UPDATE public.by_index SET pk = pk + 500, x = 3, c = 'd' WHERE a % 2 = 0`,
      `UPDATE public.by_index SET b = 'moved' || a WHERE a % 7 = 0`,
      `DELETE FROM public.by_index WHERE a > 90`,
      `INSERT INTO public.by_enum SELECT e, n::bit(3), n FROM unnest(enum_range(NULL::public.mood)) e, generate_series(0, 7) n`,
      `UPDATE public.by_enum SET n = -n WHERE e = 'so "la"'`,
      `DELETE FROM public.by_enum WHERE b = '101'`,
      `INSERT INTO public.only_key SELECT i, i FROM generate_series(1, 100) i`,
      `UPDATE public.only_key SET a = a`,
      `UPDATE public.only_key SET a = a + 100 WHERE a > 50`,
      `INSERT INTO ${odd} SELECT i, 's' || i, i, i, 't' FROM generate_series(1, 100) i`,
      `UPDATE ${odd} SET s = 'u', t = 7 WHERE "$1" % 2 = 0`,
      `DELETE FROM ${odd} WHERE "$1" % 5 = 0`,
    ];
    for (const sql of writes) await session.query(sql);
    expect(await differences(pair, ...all, odd)).toEqual([]);
  });

  test('that are kept out of line come with each change, and may stay untouched (trap 11)', async () => {
    const ddl = `CREATE TABLE public.long (body text, id text, version int, more text, PRIMARY KEY (id));
                 ALTER TABLE public.long ALTER id SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    // Long enough for TOAST, short enough for the index.
    await session.query(
      `INSERT INTO public.long SELECT 'b', i || repeat('k', 2300), 0, repeat('m', 5000) FROM generate_series(1, 60) i`,
    );
    expect(await differences(pair, 'public.long')).toEqual([]);
    await session.query(`UPDATE public.long SET version = 1`);
    await session.query(
      `BEGIN; UPDATE public.long SET version = 2 WHERE id LIKE '1%';
       UPDATE public.long SET id = 'new' || id, version = 3 WHERE id LIKE '12%';
       UPDATE public.long SET more = 'short' WHERE id LIKE 'new%';
       UPDATE public.long SET version = 4 WHERE id LIKE '3%'; DELETE FROM public.long WHERE id LIKE '33%'; COMMIT`,
    );
    expect(await differences(pair, 'public.long')).toEqual([]);
  });
});

describe.each(PAIRS)('REPLICA IDENTITY FULL with a key, from %i to %i', (...versions) => {
  test('sends whole old rows, of which the key is taken', async () => {
    const ddl = `CREATE TABLE public.whole (note text, id int PRIMARY KEY, long text, n numeric);
                 ALTER TABLE public.whole ALTER long SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
                 CREATE TABLE public.unique_only (a int NOT NULL UNIQUE, b text);
                 ALTER TABLE public.unique_only REPLICA IDENTITY FULL`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    const both = ['public.whole', 'public.unique_only'];
    await session.query(
      `INSERT INTO public.whole SELECT NULL, i, repeat('l' || i, 3000), i FROM generate_series(1, 100) i`,
    );
    await session.query(
      `INSERT INTO public.unique_only SELECT i, NULL FROM generate_series(1, 100) i`,
    );
    expect(await differences(pair, ...both)).toEqual([]);
    const writes = [
      `UPDATE public.whole SET note = 'n' WHERE id % 2 = 0`,
      `UPDATE public.whole SET n = 1.00 WHERE id = 5`,
      `UPDATE public.whole SET id = id + 1000 WHERE id % 7 = 0`,
      `BEGIN; UPDATE public.whole SET note = 'a' WHERE id = 11; UPDATE public.whole SET long = 'b' WHERE id = 11;
       UPDATE public.whole SET note = 'c' WHERE id = 11; DELETE FROM public.whole WHERE id = 12;
       INSERT INTO public.whole VALUES ('again', 12, 'x', 1); COMMIT`,
      `DELETE FROM public.whole WHERE id > 1040`,
      `UPDATE public.unique_only SET b = 'b' WHERE a > 50`,
      `UPDATE public.unique_only SET a = a + 500 WHERE a > 90`,
      `DELETE FROM public.unique_only WHERE a % 3 = 0`,
    ];
    for (const sql of writes) await session.query(sql);
    expect(await differences(pair, ...both)).toEqual([]);
  });
});
