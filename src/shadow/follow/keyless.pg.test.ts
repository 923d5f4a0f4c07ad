import { describe, expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { returnTables } from '#src/shadow/return-tables.ts';
import { repairShadow } from '#src/shadow/verify/repair.ts';
import type { VerifyOptions } from '#src/shadow/verify/verify.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

/** Tables without a key, under REPLICA IDENTITY FULL: rows are named by all of their values. */

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([14, 18], [18, 18]);

const TYPES = `
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE DOMAIN public.texts AS text[];
CREATE DOMAIN public.word AS varchar(400);
CREATE TYPE public.mood AS ENUM ('zqrow', 'so "la"', 'a,b');
CREATE TYPE public.pair AS (name text, amount numeric);`;

/** Values that `=` takes for one another, or has no answer for; all of a column differ in text. */
const VALUES: Readonly<Record<string, readonly string[]>> = {
  int4: ['1', '0'],
  date: [`'1970-01-01'`, `'infinity'`],
  text: [
    `''`,
    `'zqrow'`,
    `'\\N'`,
    `E'tab\\tand\\nnewline'`,
    `'"quoted", (so)'`,
    `repeat('zqrow', 500)`,
    // As long, and one that reads like their length.
    `repeat('zqROW', 500)`,
    `'2500'`,
  ],
  bytea: [
    `''`,
    `'\\x00'`,
    `decode(repeat('ab', 3000), 'hex')`,
    `decode(repeat('ac', 3000), 'hex')`,
  ],
  'char(5)': [`'a'`, `'b'`],
  '"char"': [`'a'`, `''`],
  float8: [`'NaN'`, '0', `'-0'`, `'Infinity'`, '0.1', '0.30000000000000004'],
  numeric: ['1.0', '1.00', `'NaN'`, '0'],
  interval: [`'30 days'`, `'1 mon'`, `'720 hours'`],
  json: [`'{"a":1,"a":2}'`, `'{"a": 1}'`, `'{"a":1}'`, `'null'`],
  jsonb: [`'{"a":1.0}'`, `'{"a":1.00}'`, `'null'`],
  'int4[]': [
    `'{}'`,
    `'{1,2}'`,
    `'[0:1]={1,2}'`,
    `'{{1},{2}}'`,
    `array_remove('{1,NULL}', NULL)`,
    `'{1,NULL}'`,
  ],
  'text[]': [`'{}'`, `'{""}'`, `'{NULL}'`, `'{"NULL","zqrow"}'`],
  timestamptz: [`'2024-01-01 00:00:00.000001+00'`, `'-infinity'`, `'4000-01-01 00:00:00+00 BC'`],
  time: [`'24:00'`, `'00:00'`],
  inet: [`'10.0.0.1'`, `'10.0.0.1/8'`],
  bit: [`'0'`, `'1'`],
  'bit varying(9)': [`''`, `'0'`, `'00'`],
  point: [`'(0,0)'`, `'(-0,0)'`, `'(NaN,1)'`],
  uuid: [`'00000000-0000-0000-0000-000000000001'`, `'00000000-0000-0000-0000-000000000000'`],
};

const TEXT_VALUES: Readonly<Record<string, readonly string[]>> = {
  xml: [`'<a/>'`, `'<a></a>'`, `'zqrow'`],
  money: ['1', '2'],
  'ext.citext': [`'zqROW'`, `'zqrow'`],
  'ext.hstore': [`'a=>1, b=>NULL'`, `'a=>1'`],
  'public.texts': [`'{zqrow}'`, `'[2:2]={zqrow}'`],
  'public.word': [`'zqrow'`, `''`],
  'public.mood': [`'zqrow'`, `'so "la"'`, `'a,b'`],
  'public.pair': [`ROW(NULL, NULL)`, `ROW('', 1.0)`, `ROW('zqrow', 1.00)`, `ROW('a,"b)', 'NaN')`],
  'public.pair[]': [`'{}'`, `ARRAY[ROW('zqrow', 1.0)::public.pair, NULL]`],
  regclass: [`'pg_class'`, `'4294967295'`],
  int4range: [`'empty'`, `'[1,2)'`, `'(,)'`],
  tsvector: [`''`, `'zqrow:1'`],
};

/** Three of each value and of NULL come; then one and two of each go, are changed, and all go. */
async function writeValues(
  pair: FollowedPair,
  types: Readonly<Record<string, readonly string[]>>,
): Promise<readonly string[]> {
  const { session } = pair.source;
  const tables: string[] = [];
  for (const [i, [type, values]] of Object.entries(types).entries()) {
    const table = `public.by_${i}`;
    tables.push(table);
    const all = [...values, 'NULL'];
    const rows = all.map((value, n) => `(${n}, ${value}::${type})`).join(', ');
    const matching = (n: number): string =>
      `ctid IN (SELECT min(ctid) FROM ${table} WHERE n = ${n})`;
    await session.query(
      `INSERT INTO ${table} (n, v) SELECT n, v FROM (VALUES ${rows}) AS w (n, v), generate_series(1, 3)`,
    );
    // One at a time, so that none is deleted instead of another that is equal to it.
    for (let n = 0; n < all.length; n++) {
      await session.query(`UPDATE ${table} SET n = 0 WHERE ${matching(n)}`);
      if (n % 2 === 0) await session.query(`DELETE FROM ${table} WHERE ${matching(n)}`);
      await session.query(
        `UPDATE ${table} SET v = ${all[(n + 1) % all.length]}::${type} WHERE ${matching(n)}`,
      );
    }
  }
  return tables;
}

const tablesOf = (types: Readonly<Record<string, readonly string[]>>): string =>
  Object.keys(types)
    .map(
      (type, i) => `CREATE TABLE public.by_${i} (n int, v ${type});
        ALTER TABLE public.by_${i} REPLICA IDENTITY FULL;`,
    )
    .join('\n');

/** What was said of tables that could not go on. */
function stopped(pair: FollowedPair): readonly string[] {
  return pair.events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));
}

describe.each(PAIRS)('without a key, from %i to %i', (...versions) => {
  test('values of every kind name their row in a text stream (trap 12)', async () => {
    const types = { ...VALUES, ...TEXT_VALUES };
    await using pair = await followPair(versions, TYPES + tablesOf(types));
    expect(pair.shadow.streamFormat).toBe('text');
    const tables = await writeValues(pair, types);
    expect(await differences(pair, ...tables)).toEqual([]);
    for (const table of tables) await pair.source.session.query(`UPDATE ${table} SET n = n + 1`);
    expect(await differences(pair, ...tables)).toEqual([]);
    for (const table of tables) await pair.source.session.query(`DELETE FROM ${table}`);
    expect(await differences(pair, ...tables)).toEqual([]);
    expect(stopped(pair)).toEqual([]);
  });

  test('values of every kind name their row in a binary stream (trap 12)', async () => {
    await using pair = await followPair(versions, tablesOf(VALUES));
    expect(pair.shadow.streamFormat).toBe('binary');
    const tables = await writeValues(pair, VALUES);
    expect(await differences(pair, ...tables)).toEqual([]);
    for (const table of tables) await pair.source.session.query(`DELETE FROM ${table} WHERE n > 0`);
    expect(await differences(pair, ...tables)).toEqual([]);
    expect(stopped(pair)).toEqual([]);
  });

  test('long values, duplicates, unique values, dropped columns, savepoints and TRUNCATE', async () => {
    const ddl = `
      CREATE TABLE public.long (n int, v text, w bytea);
      ALTER TABLE public.long REPLICA IDENTITY FULL;
      ALTER TABLE public.long ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL;
      CREATE TABLE public.same (v text);
      ALTER TABLE public.same REPLICA IDENTITY FULL;
      CREATE TABLE public.nullable (n int UNIQUE, r int4range, note text,
        EXCLUDE USING gist (r WITH &&));
      ALTER TABLE public.nullable REPLICA IDENTITY FULL;
      CREATE TABLE public.keyed (id int PRIMARY KEY, n int UNIQUE);
      CREATE TABLE public.gaps (gone int, a int, gone2 text, b text);
      ALTER TABLE public.gaps DROP gone, DROP gone2, ADD c numeric DEFAULT 1.0;
      ALTER TABLE public.gaps REPLICA IDENTITY FULL;`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    const writes = [
      `INSERT INTO public.long SELECT i, repeat('zqrow' || i, 200000), decode(repeat('ab', 100000), 'hex')
         FROM generate_series(1, 3) i`,
      `INSERT INTO public.long SELECT * FROM public.long WHERE n = 1`,
      // Neither long value is in the new row.
      `UPDATE public.long SET n = n + 10`,
      `BEGIN; UPDATE public.long SET n = n + 10; UPDATE public.long SET v = v || 'x'; COMMIT`,
      `DELETE FROM public.long WHERE ctid IN (SELECT min(ctid) FROM public.long WHERE n = 21)`,
      `INSERT INTO public.same SELECT 'zqrow' FROM generate_series(1, 1500)`,
      `DELETE FROM public.same WHERE ctid IN (SELECT ctid FROM public.same LIMIT 1000)`,
      `UPDATE public.same SET v = NULL WHERE ctid IN (SELECT ctid FROM public.same LIMIT 100)`,
      `BEGIN; DELETE FROM public.same; INSERT INTO public.same VALUES ('zqrow'), (NULL), ('zqrow'), ('other'); COMMIT`,
      `INSERT INTO public.nullable SELECT i, int4range(i * 10, i * 10 + 10), 'zqrow' FROM generate_series(1, 200) i`,
      `INSERT INTO public.nullable VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)`,
      `BEGIN; UPDATE public.nullable SET n = -1 WHERE n = 1; UPDATE public.nullable SET n = 1 WHERE n = 2;
         UPDATE public.nullable SET n = 2 WHERE n = -1; COMMIT`,
      `BEGIN; UPDATE public.nullable SET r = NULL WHERE n < 5; UPDATE public.nullable SET r = int4range(n * 10 + 5, n * 10 + 7) WHERE n < 5; COMMIT`,
      // What another table needs in exact order leaves this one as it is.
      `INSERT INTO public.keyed SELECT i, i FROM generate_series(1, 50) i`,
      `BEGIN; UPDATE public.keyed SET n = -n; UPDATE public.keyed SET n = 51 + n;
         UPDATE public.nullable SET note = n::text WHERE n > 100; UPDATE public.keyed SET id = id + 100; COMMIT`,
      `BEGIN; SAVEPOINT a; DELETE FROM public.nullable WHERE n > 150; ROLLBACK TO a; DELETE FROM public.nullable WHERE n > 190; COMMIT`,
      `INSERT INTO public.gaps SELECT i, 'zqrow', i * 1.00 FROM generate_series(1, 100) i`,
      `UPDATE public.gaps SET c = c + 1 WHERE a % 2 = 0`,
      `BEGIN; DELETE FROM public.gaps WHERE a < 10; TRUNCATE public.gaps; INSERT INTO public.gaps VALUES (1, 'zqrow'), (1, 'zqrow'); UPDATE public.gaps SET a = 2; COMMIT`,
    ];
    for (const sql of writes) await session.query(sql);
    const tables = ['long', 'same', 'nullable', 'keyed', 'gaps'].map((name) => `public.${name}`);
    expect(await differences(pair, ...tables)).toEqual([]);
    // Together, so that they meet in batches.
    await pair.source.session.query(`TRUNCATE ${tables.join(', ')}`);
    await pair.source.session.query(
      `BEGIN; ${writes.map((sql) => sql.replace(/^BEGIN;|COMMIT$/g, '').replace(/COMMIT$/, '')).join(';')}; COMMIT`,
    );
    expect(await differences(pair, ...tables)).toEqual([]);
    expect(stopped(pair)).toEqual([]);
  });

  test('transactions of several batches, streamed and partly rolled back, remove at their end (trap 17)', async () => {
    const ddl = `
      CREATE TABLE public.free (n int, v text);
      ALTER TABLE public.free REPLICA IDENTITY FULL;
      CREATE TABLE public.refusing (n int UNIQUE, v text);
      ALTER TABLE public.refusing REPLICA IDENTITY FULL;
      CREATE TABLE public.swapped (id int PRIMARY KEY, n int UNIQUE);`;
    await using pair = await followPair(versions, ddl, {
      prepare: async (source) => {
        await source.session.query(
          `ALTER DATABASE ${source.name} SET logical_decoding_work_mem = '64kB'`,
        );
        return {};
      },
    });
    const { session } = pair.source;
    const writes = [
      `INSERT INTO public.free SELECT i % 1000, 'zqrow' FROM generate_series(1, 15000) i;
       INSERT INTO public.refusing SELECT i, 'zqrow' FROM generate_series(1, 2000) i;
       INSERT INTO public.swapped SELECT i, i FROM generate_series(1, 100) i`,
      `UPDATE public.free SET n = n + 1;
       SAVEPOINT a; DELETE FROM public.free WHERE n < 700; UPDATE public.refusing SET v = 'gone'; ROLLBACK TO a;
       UPDATE public.refusing SET n = n + 5000; UPDATE public.refusing SET n = n - 5001;
       UPDATE public.free SET n = n + 1, v = 'zqrow 2' WHERE n % 2 = 0;
       UPDATE public.swapped SET n = -n; UPDATE public.swapped SET n = 101 + n;
       DELETE FROM public.free WHERE n % 3 = 0`,
      `UPDATE public.free SET n = n + 10; UPDATE public.refusing SET v = 'zqrow 3';
       TRUNCATE public.free; INSERT INTO public.free VALUES (1, 'zqrow'), (1, 'zqrow');
       DELETE FROM public.free WHERE ctid IN (SELECT ctid FROM public.free LIMIT 1);
       DELETE FROM public.refusing`,
    ];
    const tables = ['public.free', 'public.refusing', 'public.swapped'];
    for (const sql of writes) {
      await session.query(`BEGIN; ${sql}; COMMIT`);
      expect(await differences(pair, ...tables)).toEqual([]);
    }
    expect(stopped(pair)).toEqual([]);
  });

  test('tables of no column and of 1,600 columns', async () => {
    const columns = Array.from(
      { length: 1_600 },
      (_, i) => `c${i} ${['int', 'text', 'bool'][i % 3]}`,
    );
    const ddl = `
      CREATE TABLE public.empty ();
      ALTER TABLE public.empty REPLICA IDENTITY FULL;
      CREATE TABLE public.emptied (gone int);
      ALTER TABLE public.emptied DROP gone;
      ALTER TABLE public.emptied REPLICA IDENTITY FULL;
      CREATE TABLE public.wide (${columns.join(', ')});
      ALTER TABLE public.wide REPLICA IDENTITY FULL;
      CREATE TABLE public.wide_keyed (${columns.join(', ')}, PRIMARY KEY (c0, c1598));`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    const tables = ['empty', 'emptied', 'wide', 'wide_keyed'].map((name) => `public.${name}`);
    const values = (i: string): string =>
      columns
        .map(
          (_, n) => [i, n % 6 === 1 && n !== 1597 ? 'NULL' : `'z' || ${i}`, `${i} % 2 = 0`][n % 3],
        )
        .join(', ');
    for (const empty of ['public.empty', 'public.emptied']) {
      await session.query(`INSERT INTO ${empty} DEFAULT VALUES`);
      await session.query(`INSERT INTO ${empty} SELECT FROM generate_series(1, 60)`);
      await session.query(
        `DELETE FROM ${empty} WHERE ctid IN (SELECT ctid FROM ${empty} LIMIT 20)`,
      );
    }
    for (const wide of ['public.wide', 'public.wide_keyed']) {
      for (const [from, to] of [
        [1, 1],
        [2, 9],
        [10, 80],
      ]) {
        await session.query(
          `INSERT INTO ${wide} SELECT ${values('i')} FROM generate_series(${from}, ${to}) i`,
        );
      }
      await session.query(`UPDATE ${wide} SET c4 = 'zqrow' WHERE c0 < 5`);
      await session.query(`UPDATE ${wide} SET c7 = 'zqrow', c1599 = 7 WHERE c0 = 77`);
      await session.query(`UPDATE ${wide} SET c0 = c0 + 1000 WHERE c0 = 78`);
      await session.query(`DELETE FROM ${wide} WHERE c0 BETWEEN 3 AND 20`);
      await session.query(`DELETE FROM ${wide} WHERE c0 = 30`);
    }
    await pair.caughtUp();
    for (const table of tables) {
      const count = `SELECT count(*) AS n, (SELECT md5(string_agg(r, ',' ORDER BY r)) FROM (SELECT t::text COLLATE "C" AS r FROM ${table} t) x) AS h FROM ${table}`;
      expect([table, await pair.target.session.query(count)]).toEqual([
        table,
        await session.query(count),
      ]);
    }
    await pair.target.session.query(`
      UPDATE public.wide SET c4 = 'x' WHERE c0 = 50; UPDATE public.wide_keyed SET c4 = 'x' WHERE c0 = 50;
      DELETE FROM public.empty WHERE ctid IN (SELECT min(ctid) FROM public.empty)`);
    const options: VerifyOptions = {
      source: pair.source.endpoint,
      target: pair.target.endpoint,
      tables: await readTables(session, EVERYTHING),
      sequences: [],
      leftOut: [],
      shadowId: undefined,
      moment: { kind: 'now' },
      isFull: true,
      isWithLargeObjects: false,
      jobs: 1,
      report: () => undefined,
      failpoints: createFailpoints(undefined),
      signal: new AbortController().signal,
    };
    const { found, after } = await repairShadow(options);
    // Without a key the row is missing and another one is there too many.
    expect([found.differences, found.unverified, after.differences]).toEqual([4, [], 0]);
    await session.query('TRUNCATE public.emptied');
    expect(await differences(pair, ...tables)).toEqual([]);
    expect(stopped(pair)).toEqual([]);
  });

  test('many tables leave few staging tables behind', async () => {
    const names = Array.from({ length: 110 }, (_, i) => `public.t${i}`);
    const ddl = names.map(
      (name) => `CREATE TABLE ${name} (v text); ALTER TABLE ${name} REPLICA IDENTITY FULL;`,
    );
    await using pair = await followPair(versions, ddl.join('\n'));
    const { session } = pair.source;
    for (const value of ['zqrow', 'zqrow 2', 'zqrow 3']) {
      const writes = names.map(
        (name) => `INSERT INTO ${name} VALUES ('old'); UPDATE ${name} SET v = '${value}'`,
      );
      await session.query(`BEGIN; ${writes.join(';')}; COMMIT`);
      // A transaction of its own on the target, too: only between two are they dropped.
      await pair.caughtUp();
      await session.query(`UPDATE public.t7 SET v = v || '!'`);
      expect(await differences(pair, ...names)).toEqual([]);
    }
    const [row] = await pair.target.session.query(
      `SELECT count(*) AS n FROM pg_class WHERE relname ~ '^understudy_[0-9]+$' AND relpersistence = 't'`,
    );
    expect(Number(row?.['n'])).toBeLessThan(110);
    expect(stopped(pair)).toEqual([]);
  });

  test('a table that stopped comes back by a lane, resumed and copied again (trap 19)', async () => {
    const ddl = `
      CREATE TABLE public.t (v text, n int);
      ALTER TABLE public.t REPLICA IDENTITY FULL;
      CREATE TABLE public.other (v text);
      ALTER TABLE public.other REPLICA IDENTITY FULL;`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    const comeBack = async (kind: 'resume' | 'reseed'): Promise<void> =>
      returnTables(
        {
          target: pair.target.session,
          shadowId: pair.shadow.shadowId,
          clock: systemClock,
          report: () => undefined,
          signal: AbortSignal.timeout(60_000),
        },
        kind,
        [{ schema: 'public', name: 't' }],
      );
    await session.query(
      `INSERT INTO public.t SELECT 'zqrow', i % 5 FROM generate_series(1, 500) i`,
    );
    await pair.caughtUp();
    await session.query(`ALTER TABLE public.t ADD late numeric DEFAULT 1.0`);
    await session.query(
      `UPDATE public.t SET n = n + 1 WHERE n < 2; INSERT INTO public.other VALUES ('zqrow')`,
    );
    await session.query(`UPDATE public.other SET v = 'zqrow 2'`);
    expect(await differences(pair, 'public.other')).toEqual([]);
    // What is to be removed in the old shape must not be taken from what came in the new one.
    await session.query(
      `BEGIN; DELETE FROM public.t WHERE ctid IN (SELECT ctid FROM public.t WHERE n = 3 LIMIT 1);
       UPDATE public.t SET v = 'zqrow 2' WHERE n = 2; ALTER TABLE public.t ADD last int;
       INSERT INTO public.t SELECT v, n, late, 5 FROM public.t WHERE n IN (2, 3);
       UPDATE public.t SET last = 6 WHERE n = 4; COMMIT`,
    );
    await pair.target.session.query(
      `ALTER TABLE public.t ADD late numeric DEFAULT 1.0, ADD last int`,
    );
    await comeBack('resume');
    await session.query(
      `UPDATE public.t SET late = 1.00 WHERE n = 1; DELETE FROM public.t WHERE n = 4`,
    );
    expect(await differences(pair, 'public.t', 'public.other')).toEqual([]);
    // Its rows are others than the source's now: the next removal finds too few.
    await pair.target.session.query(`UPDATE public.t SET v = 'zqrow elsewhere'`);
    await session.query(`DELETE FROM public.t WHERE n = 1`);
    await pair.caughtUp();
    await comeBack('reseed');
    await session.query(`UPDATE public.t SET n = n - 1`);
    expect(await differences(pair, 'public.t', 'public.other')).toEqual([]);
  });

  test('a row that is not there, or not that often, stops the table alone (trap 12)', async () => {
    const ddl = `
      CREATE TABLE public.t (v text);
      ALTER TABLE public.t REPLICA IDENTITY FULL;
      CREATE TABLE public.other (v text);
      ALTER TABLE public.other REPLICA IDENTITY FULL;`;
    await using pair = await followPair(versions, ddl);
    const { session } = pair.source;
    await session.query(`INSERT INTO public.t VALUES ('zqrow'), ('zqrow'), ('zqROW')`);
    await pair.caughtUp();
    await pair.target.session.query(
      `DELETE FROM public.t WHERE ctid IN (SELECT min(ctid) FROM public.t)`,
    );
    await session.query(`DELETE FROM public.t WHERE v = 'zqrow'`);
    await session.query(`INSERT INTO public.other VALUES ('zqrow')`);
    await session.query(`UPDATE public.other SET v = 'zqrow 2'`);
    expect(await differences(pair, 'public.other')).toEqual([]);
    expect(stopped(pair)).toEqual([
      expect.stringContaining('table public.t differs from its source: 1 of 2 rows are not there'),
    ]);
    expect(await pair.target.session.query('SELECT v FROM public.t ORDER BY v')).toHaveLength(2);
  });
});
