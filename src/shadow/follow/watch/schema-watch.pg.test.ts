import { describe, expect, test, vi } from 'vitest';

import { readVersions } from '#src/shadow/ddl/version-ledger.ts';
import { readRelationRecords } from '#src/shadow/ledger.ts';
import { differences, type FollowedPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { watchedPair } from '#test/watched-pair.ts';

async function states({ target, shadow }: FollowedPair): Promise<Readonly<Record<string, string>>> {
  const records = await readRelationRecords(target.session, shadow.shadowId);
  return Object.fromEntries(
    records
      .filter(({ state }) => state !== 'copied')
      .map(({ name, state, stop }) => [name, `${state} ${stop?.waitsFor ?? ''}`.trim()]),
  );
}

async function dirty({ target }: FollowedPair): Promise<readonly string[]> {
  const rows = await target.session.query(
    `SELECT r.table_name FROM understudy.dirty_table d JOIN understudy.relation r USING (shadow_id, source_oid)
      ORDER BY 1`,
  );
  return rows.map((row) => row['table_name'] ?? '');
}

const SCHEMA = `
CREATE TABLE public.plain (id int PRIMARY KEY, a text);
CREATE TABLE public.other (id int PRIMARY KEY, a text);
CREATE TABLE public.gone (id int PRIMARY KEY);
CREATE TABLE public.parent (id int NOT NULL, k int NOT NULL, note text DEFAULT 'zqrow', PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE INDEX parent_note ON public.parent (note);
CREATE TABLE public.part1 PARTITION OF public.parent FOR VALUES IN (1);
CREATE TABLE public.rest PARTITION OF public.parent DEFAULT;`;

describe.for(casesOf<readonly [14 | 18, 18]>([18, 18], [14, 18]))(
  '%i to %i, without event triggers',
  (versions) => {
    test('a change that no row shows stops its table, and no other (trap 19, pain 22)', async () => {
      await using watched = await watchedPair(versions, SCHEMA);
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await session.query(
        `INSERT INTO public.plain VALUES (1, 'zqrow'); INSERT INTO public.other VALUES (1, 'zqrow')`,
      );
      await look();
      await look();
      expect([await states(pair), await dirty(pair), said()]).toEqual([{}, [], []]);
      // Rows have another value now, and no row was changed.
      await session.query('ALTER TABLE public.plain ADD b int DEFAULT 5');
      await look();
      expect(await states(pair)).toEqual({ plain: 'stopped resume' });
      await session.query('ALTER TABLE public.parent DETACH PARTITION public.part1');
      await session.query('DROP TABLE public.gone; CREATE TABLE public.gone (id int PRIMARY KEY)');
      await look();
      const now = await states(pair);
      expect(now).toEqual({
        gone: 'stopped reseed',
        part1: 'stopped resume',
        plain: 'stopped resume',
      });
      const records = await readRelationRecords(pair.target.session, pair.shadow.shadowId);
      expect(records.find(({ name }) => name === 'gone')?.stop?.message).toBe(
        'table "public"."gone" was changed on the source: it was dropped, and another table has its name now',
      );
      await session.query(
        `INSERT INTO public.other VALUES (2, 'zqrow'); INSERT INTO public.parent VALUES (1, 7)`,
      );
      expect(await differences(pair, 'public.other', 'public.rest')).toEqual([]);
      // What is gone from both sides is not of the shadow any more.
      await session.query('DROP TABLE public.plain');
      await look();
      expect(Object.keys(await states(pair))).toEqual(['gone', 'part1', 'plain']);
      await pair.target.session.query('DROP TABLE public.plain');
      await look();
      expect(Object.keys(await states(pair))).toEqual(['gone', 'part1']);
      const [version] = (await readVersions(pair.target.session)).filter(
        ({ table, version: n }) => table.name === 'plain' && n === 2,
      );
      expect([version?.tag, version?.isExact, version?.verdict]).toEqual(['LOOK', false, 'resume']);
    });

    test('another file marks the table, unless a TRUNCATE explains it', async () => {
      await using watched = await watchedPair(versions, SCHEMA);
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await session.query(
        `INSERT INTO public.plain VALUES (1, 'zqrow'); INSERT INTO public.other VALUES (1, 'zqrow')`,
      );
      await session.query('TRUNCATE public.other');
      await look();
      expect([await dirty(pair), said()]).toEqual([['other'], []]);
      await session.query(`ALTER TABLE public.plain ALTER a TYPE text USING upper(a)`);
      await look();
      expect(await dirty(pair)).toEqual(['other', 'plain']);
      expect(said()).toEqual([
        expect.stringContaining('table "public"."plain" has another file on the source'),
      ]);
      expect(await states(pair)).toEqual({});
      // Seen once.
      await pair.target.session.query('DELETE FROM understudy.dirty_table');
      await look();
      expect(await dirty(pair)).toEqual([]);
      // A new shape with a new file: rows were rewritten.
      await session.query('ALTER TABLE public.plain ADD c float DEFAULT random()');
      await look();
      expect(await states(pair)).toEqual({ plain: 'stopped reseed' });
    });

    test('a new partition is created on the target, as it is on the source (trap 18)', async () => {
      await using watched = await watchedPair(versions, SCHEMA);
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await session.query(`INSERT INTO public.parent VALUES (1, 1), (2, 2), (3, 3)`);
      await session.query(`BEGIN; CREATE TABLE public.part3 PARTITION OF public.parent (CHECK (id > 0)) FOR VALUES IN (4) PARTITION BY RANGE (id);
      CREATE TABLE public."Part 3a" PARTITION OF public.part3 FOR VALUES FROM (0) TO (100);
      CREATE INDEX part3_own ON public."Part 3a" (k);
      INSERT INTO public.parent VALUES (4, 4); UPDATE public.parent SET k = 4 WHERE id = 1; COMMIT`);
      // The default partition has to let its rows go first.
      await session.query(`BEGIN; CREATE TEMP TABLE moving AS SELECT * FROM public.rest WHERE k = 2;
      DELETE FROM public.rest WHERE k = 2; CREATE TABLE public.part2 PARTITION OF public.parent FOR VALUES IN (2);
      INSERT INTO public.parent SELECT * FROM moving; COMMIT`);
      await session.query(`CREATE TABLE public.part9 (note text, k int NOT NULL, id int NOT NULL);
      INSERT INTO public.part9 VALUES ('zqrow', 9, 9);
      ALTER TABLE public.parent ATTACH PARTITION public.part9 FOR VALUES IN (9)`);
      await look();
      await look();
      expect(said().at(-1)).toContain('it was created on the target and is brought in');
      const describeTree = `SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound, c.relkind,
        (SELECT string_agg(i.indexrelid::regclass::text || ' ' || x.relispartition, ', ' ORDER BY 1)
           FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid) AS indexes,
        (SELECT string_agg(conname, ', ' ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid AND contype <> 'n') AS constraints
      FROM pg_class c WHERE c.relname IN ('part2', 'part3', 'part9', 'Part 3a') ORDER BY 1`;
      expect(await pair.target.session.query(describeTree)).toEqual(
        await session.query(describeTree),
      );
      await vi.waitFor(async () => expect(await states(pair)).toEqual({}), { timeout: 60_000 });
      // It follows like any other.
      await session.query(`UPDATE public.parent SET k = 9 WHERE id = 2; UPDATE public.parent SET k = 4 WHERE id = 3;
      DELETE FROM public.parent WHERE id = 9; INSERT INTO public.parent VALUES (20, 2), (21, 4)`);
      expect(await differences(pair, 'public.parent')).toEqual([]);
    });

    test('a table that loses its replica identity leaves the publication, so that production goes on (trap 7)', async () => {
      await using watched = await watchedPair(versions, SCHEMA);
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await session.query(`INSERT INTO public.plain VALUES (1, 'zqrow')`);
      await session.query('ALTER TABLE public.plain DROP CONSTRAINT plain_pkey');
      await look();
      await session.query(`UPDATE public.plain SET a = 'zqrow 2'`);
      expect(await states(pair)).toEqual({ plain: 'stopped reseed' });
      expect(said()).toEqual([expect.stringContaining('was taken out of the publication')]);
      // The monitor has looked at the publication meanwhile, and the others follow.
      await session.query('INSERT INTO public.other VALUES (1)');
      expect(await differences(pair, 'public.other')).toEqual([]);
    });

    test('a partition without a key is not published under a keyless parent (traps 7, 18)', async () => {
      const keyless = `CREATE TABLE public.logs (day int, line text) PARTITION BY LIST (day);
      CREATE TABLE public.log1 PARTITION OF public.logs FOR VALUES IN (1);
      ALTER TABLE public.log1 REPLICA IDENTITY FULL; CREATE TABLE public.alone (id int PRIMARY KEY)`;
      await using watched = await watchedPair(versions, keyless);
      const { pair, look, said } = watched;
      const { session } = pair.source;
      await session.query('CREATE TABLE public.log2 PARTITION OF public.logs FOR VALUES IN (2)');
      await session.query('CREATE TABLE public.newcomer (id int PRIMARY KEY)');
      await look();
      expect(await states(pair)).toEqual({ log2: 'stopped reseed', newcomer: 'stopped reseed' });
      expect(said().join('\n')).toContain(
        'run ALTER TABLE "public"."log2" REPLICA IDENTITY FULL on the source',
      );
      await session.query(
        `INSERT INTO public.logs VALUES (2, 'zqrow'); UPDATE public.logs SET line = 'zqrow 2'`,
      );
      await session.query('ALTER TABLE public.log2 REPLICA IDENTITY FULL');
      await look();
      await vi.waitFor(
        async () => expect(await states(pair)).toEqual({ newcomer: 'stopped reseed' }),
        { timeout: 60_000 },
      );
      expect(await differences(pair, 'public.logs')).toEqual([]);
    });
  },
);
