import { describe, expect, test } from 'vitest';

import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([14, 18], [18, 18]);

/** Rows by a key, and a second value that is unique. */
const create = (name: string): string =>
  `CREATE TABLE ${name} (id int PRIMARY KEY, v text, u int UNIQUE);`;

type Stopped = { readonly table: string; readonly message: string; readonly isAtProgress: boolean };

/** What the ledger says of the tables that have stopped. */
async function stoppedTables(pair: FollowedPair): Promise<readonly Stopped[]> {
  const rows = await pair.target.session.query(
    `SELECT table_name, stop_message, stop_lsn <= $2::pg_lsn AS is_at_progress
       FROM understudy.relation WHERE shadow_id = $1 AND state = 'stopped' ORDER BY table_name`,
    [pair.shadow.shadowId, await insertLsn(pair)],
  );
  return rows.map((row) => ({
    table: row['table_name'] ?? '',
    message: row['stop_message'] ?? '',
    isAtProgress: row['is_at_progress'] === 't',
  }));
}

async function insertLsn(pair: FollowedPair): Promise<string> {
  const [row] = await pair.source.session.query('SELECT pg_current_wal_insert_lsn() AS lsn');
  return row?.['lsn'] ?? '';
}

const notices = (pair: FollowedPair): readonly string[] =>
  pair.events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));

/** A change of a table's shape, and what is said of it. */
const CHANGES: Readonly<Record<string, readonly [string, string]>> = {
  added: ['ALTER TABLE public.added ADD extra int', 'was added'],
  dropped: ['ALTER TABLE public.dropped DROP v', 'was dropped'],
  renamed: ['ALTER TABLE public.renamed RENAME v TO w', 'has another name'],
  retyped: ['ALTER TABLE public.retyped ALTER v TYPE varchar(10)', 'has another type'],
  widened: ['ALTER TABLE public.widened ALTER n TYPE numeric(10,4)', 'another type modifier'],
  longer: ['ALTER TABLE public.longer ALTER s TYPE varchar(20)', 'another type modifier'],
  called: ['ALTER TABLE public.called RENAME TO otherwise', 'is called'],
  moved: ['ALTER TABLE public.moved SET SCHEMA other', 'is called'],
  rekeyed: [
    'ALTER TABLE public.rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (o)',
    'no longer of its replica identity',
  ],
};

describe.each(PAIRS)('a table whose shape changes on the source, from %i to %i', (...versions) => {
  test('stops alone, at its next change; the others go on (trap 19) (pain 22, complaint 13)', async () => {
    const tables = Object.keys(CHANGES);
    const ddl = [...tables, 'steady'].map(
      (name) =>
        `CREATE TABLE public.${name} (id int PRIMARY KEY, o int NOT NULL, n numeric(8,2), s varchar(10), v text);`,
    );
    await using pair = await followPair(versions, `CREATE SCHEMA other; ${ddl.join('\n')}`);
    const { session } = pair.source;
    for (const name of [...tables, 'steady']) {
      await session.query(
        `INSERT INTO public.${name} SELECT i, i, i, 's', 'v' FROM generate_series(1, 100) i`,
      );
    }
    expect(await differences(pair, ...tables.map((name) => `public.${name}`))).toEqual([]);
    for (const [sql] of Object.values(CHANGES)) await session.query(sql);
    await session.query(`UPDATE public.steady SET v = 'w'`);
    expect(await differences(pair, 'public.steady')).toEqual([]);
    // Nobody has changed a row of theirs yet.
    expect(await stoppedTables(pair)).toEqual([]);

    for (const name of tables) {
      const where =
        name === 'called'
          ? 'public.otherwise'
          : name === 'moved'
            ? 'other.moved'
            : `public.${name}`;
      await session.query(
        `BEGIN; UPDATE public.steady SET o = o + 1; UPDATE ${where} SET o = o + 1000 WHERE id < 10; UPDATE public.steady SET n = n + 1; COMMIT`,
      );
    }
    expect(await differences(pair, 'public.steady')).toEqual([]);
    const stopped = await stoppedTables(pair);
    expect(stopped.map(({ table }) => table)).toEqual(tables.toSorted());
    for (const { table, message, isAtProgress } of stopped) {
      expect(message).toContain(CHANGES[table]![1]);
      expect(message).toContain(`"public"."${table}"`);
      expect(isAtProgress).toBe(true);
      expect(notices(pair).some((notice) => notice.startsWith(message))).toBe(true);
    }
    // Nothing of the transaction that stopped them is on the target.
    for (const name of tables) {
      const [row] = await pair.target.session.query(`SELECT sum(o) AS sum FROM public.${name}`);
      expect(row).toEqual({ sum: '5050' });
    }
  });

  test('stops, too, when only the target has another shape', async () => {
    await using pair = await followPair(
      versions,
      ['gone', 'column_gone', 'narrow', 'steady']
        .map((name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, s varchar(10));`)
        .join('\n'),
    );
    const { session } = pair.source;
    await pair.caughtUp();
    await pair.target.session.query(
      `DROP TABLE public.gone; ALTER TABLE public.column_gone DROP s; ALTER TABLE public.narrow ADD CHECK (s <> 'bad')`,
    );
    for (const name of ['gone', 'column_gone', 'narrow', 'steady']) {
      await session.query(`INSERT INTO public.${name} VALUES (1, 'good'), (2, 'bad')`);
      await session.query(`TRUNCATE public.${name}`);
      await session.query(`INSERT INTO public.${name} VALUES (3, 'good')`);
    }
    expect(await differences(pair, 'public.steady')).toEqual([]);
    const stopped = await stoppedTables(pair);
    expect(stopped.map(({ table }) => table)).toEqual(['column_gone', 'gone', 'narrow']);
    // A constraint's name, never a row (I14).
    expect(stopped.map(({ message }) => message).join()).not.toContain('bad');
  });
});

describe.each(PAIRS)(
  'a row that somebody has changed on the target, from %i to %i',
  (...versions) => {
    const tables = ['deleted', 'inserted', 'rekeyed', 'taken'].map((name) => `public.${name}`);

    test.each([1, 200])(
      'stops its table at the next change that meets it, with %i rows at once (trap 12)',
      async (rows) => {
        await using pair = await followPair(
          versions,
          [...tables, 'public.steady'].map(create).join('\n'),
        );
        const { session } = pair.source;
        for (const name of [...tables, 'public.steady']) {
          await session.query(
            `INSERT INTO ${name} SELECT i, 'v', i FROM generate_series(1, 300) i`,
          );
        }
        expect(await differences(pair, ...tables)).toEqual([]);
        await pair.target.session.query(
          `DELETE FROM public.deleted WHERE id = 1; INSERT INTO public.inserted VALUES (1000, 'x', 1000);
         UPDATE public.rekeyed SET id = -1 WHERE id = 1; UPDATE public.taken SET u = 2000 WHERE id = 300`,
        );
        await session.query(`UPDATE public.deleted SET v = 'w' WHERE id <= ${rows}`);
        await session.query(
          `INSERT INTO public.inserted SELECT 999 + i, 'y' FROM generate_series(1, ${rows}) i`,
        );
        await session.query(`DELETE FROM public.rekeyed WHERE id <= ${rows}`);
        await session.query(`UPDATE public.taken SET u = 1999 + id WHERE id <= ${rows}`);
        await session.query(`UPDATE public.steady SET v = 'w'`);
        expect(await differences(pair, 'public.steady')).toEqual([]);
        const stopped = await stoppedTables(pair);
        expect(stopped.map(({ table }) => `public.${table}`)).toEqual(tables.toSorted());
        for (const { message } of stopped) expect(message).toMatch(/differs from its source/);
        await session.query(`UPDATE public.steady SET v = 'x'`);
        expect(await differences(pair, 'public.steady')).toEqual([]);
      },
    );
  },
);

test('a trigger of the target that refuses a row stops its table only', async () => {
  await using pair = await followPair(
    [18, 18],
    `CREATE TABLE public.t (id int PRIMARY KEY, secret text); CREATE TABLE public.steady (id int PRIMARY KEY)`,
  );
  await pair.target.session.query(
    `CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no %', NEW.secret USING ERRCODE = 'UX001'; END $$;
     CREATE TRIGGER refuse BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.refuse();
     ALTER TABLE public.t ENABLE ALWAYS TRIGGER refuse`,
  );
  await pair.source.session.query(`INSERT INTO public.t VALUES (1, 'hush')`);
  await pair.source.session.query(`INSERT INTO public.steady VALUES (1)`);
  expect(await differences(pair, 'public.steady')).toEqual([]);
  const [stopped] = await stoppedTables(pair);
  expect(stopped).toMatchObject({ table: 't', message: expect.stringContaining('UX001') });
  expect(stopped?.message).not.toContain('hush');
});
