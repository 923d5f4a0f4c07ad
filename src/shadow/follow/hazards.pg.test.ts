import { describe, expect, test } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { differences, followPair, streamedTransactions } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([18, 18], [14, 18]);

/** Statements that arrive as one batch: they are held back until the last one is written. */
const together = (statements: readonly string[]): string =>
  `BEGIN; ${statements.join('; ')}; COMMIT`;

describe.each(PAIRS)(
  'constraints that the order of changes satisfies, from %i to %i',
  (...versions) => {
    test('unique values that are swapped, in one transaction and over several of one group (trap 12)', async () => {
      await using pair = await followPair(
        versions,
        `CREATE TABLE public.mail (id int PRIMARY KEY, address text UNIQUE, n int, UNIQUE (n, address));
       CREATE TABLE public.seat (id int PRIMARY KEY, place int, UNIQUE (place) DEFERRABLE INITIALLY DEFERRED);
       CREATE TABLE public.partial (id int PRIMARY KEY, name text, is_live bool);
       CREATE UNIQUE INDEX ON public.partial (lower(name)) WHERE is_live`,
      );
      const { session } = pair.source;
      const all = ['public.mail', 'public.seat', 'public.partial'];
      await session.query(
        `INSERT INTO public.mail SELECT i, 'm' || i, i FROM generate_series(1, 100) i`,
      );
      await session.query(`INSERT INTO public.seat SELECT i, i FROM generate_series(1, 100) i`);
      await session.query(
        `INSERT INTO public.partial SELECT i, 'N' || i, true FROM generate_series(1, 100) i`,
      );
      expect(await differences(pair, ...all)).toEqual([]);
      // Held, so that all of it is one group.
      await pair.follower.gate.close({ kind: 'now' });
      await session.query(`UPDATE public.seat SET place = 101 - place`);
      await session.query(
        together([
          `UPDATE public.mail SET address = 'x' WHERE id = 1`,
          `UPDATE public.mail SET address = 'm1' WHERE id = 2`,
          `UPDATE public.mail SET address = 'm2' WHERE id = 1`,
        ]),
      );
      await session.query(`UPDATE public.mail SET address = 'free' WHERE id = 3`);
      await session.query(`UPDATE public.mail SET address = 'm3' WHERE id = 4`);
      await session.query(`UPDATE public.mail SET address = 'm4' WHERE id = 3`);
      await session.query(`DELETE FROM public.mail WHERE id = 5`);
      await session.query(`INSERT INTO public.mail VALUES (205, 'm5', 5)`);
      await session.query(`INSERT INTO public.mail VALUES (5, 'm205', 5)`);
      await session.query(`INSERT INTO public.mail VALUES (206, 'short', 1)`);
      await session.query(`UPDATE public.mail SET address = 'm206' WHERE id = 206`);
      await session.query(`UPDATE public.mail SET address = 'short' WHERE id = 6`);
      await session.query(`UPDATE public.partial SET is_live = false WHERE id <= 50`);
      await session.query(`UPDATE public.partial SET name = 'n' || (id - 50) WHERE id > 50`);
      expect(await differences(pair, ...all)).toEqual([]);
    });

    test('an exclusion constraint (23P01) that a set statement meets (trap 12)', async () => {
      await using pair = await followPair(
        versions,
        `CREATE TABLE public.booking (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&))`,
      );
      const { session } = pair.source;
      await session.query(
        `INSERT INTO public.booking SELECT i, int4range(10 * i, 10 * i + 10) FROM generate_series(1, 50) i`,
      );
      expect(await differences(pair, 'public.booking')).toEqual([]);
      await session.query(
        together([
          `UPDATE public.booking SET during = 'empty' WHERE id = 7`,
          `UPDATE public.booking SET during = '[70,80)' WHERE id = 3`,
          `UPDATE public.booking SET during = '[30,40)' WHERE id = 7`,
        ]),
      );
      expect(await differences(pair, 'public.booking')).toEqual([]);
    });

    test('keys that are exchanged, taken over and given up (trap 11)', async () => {
      await using pair = await followPair(
        versions,
        `CREATE TABLE public.item (id int PRIMARY KEY, name text, body text);
       ALTER TABLE public.item ALTER body SET STORAGE EXTERNAL`,
      );
      const { session } = pair.source;
      await session.query(
        `INSERT INTO public.item SELECT i, 'n' || i, repeat('b' || i, 2000) FROM generate_series(1, 50) i`,
      );
      expect(await differences(pair, 'public.item')).toEqual([]);
      await session.query(
        together([
          `UPDATE public.item SET id = -1 WHERE id = 1`,
          `UPDATE public.item SET id = 1, name = 'was 2' WHERE id = 2`,
          `UPDATE public.item SET id = 2 WHERE id = -1`,
          `UPDATE public.item SET name = 'twice' WHERE id = 2`,
          `DELETE FROM public.item WHERE id = 3`,
          `UPDATE public.item SET id = 3 WHERE id = 4`,
          `INSERT INTO public.item VALUES (4, 'new', 'short')`,
          `UPDATE public.item SET id = 60 WHERE id = 4`,
          `DELETE FROM public.item WHERE id = 60`,
          `UPDATE public.item SET id = id + 100 WHERE id > 40`,
        ]),
      );
      expect(await differences(pair, 'public.item')).toEqual([]);
    });
  },
);

describe.each(PAIRS)('TRUNCATE, from %i to %i', (...versions) => {
  test('of tables with foreign keys, between other changes of its transaction', async () => {
    await using pair = await followPair(
      versions,
      `CREATE TABLE public.parent (id int PRIMARY KEY);
       CREATE TABLE public.child (id int PRIMARY KEY, parent int REFERENCES public.parent, self int REFERENCES public.child);`,
      {
        // A table of the target's own that the dataset knows nothing of.
        targetDdl: `CREATE TABLE public.parent (id int PRIMARY KEY);
       CREATE TABLE public.child (id int PRIMARY KEY, parent int REFERENCES public.parent, self int REFERENCES public.child);
       CREATE TABLE public.outside (parent int REFERENCES public.parent)`,
      },
    );
    const { session } = pair.source;
    const both = ['public.parent', 'public.child'];
    const fill = [
      `INSERT INTO public.parent SELECT generate_series(1, 200)`,
      `INSERT INTO public.child SELECT i, i, i FROM generate_series(1, 200) i`,
    ];
    for (const sql of fill) await session.query(sql);
    await session.query(together([`UPDATE public.child SET self = 1`, `TRUNCATE public.child`]));
    expect(await differences(pair, ...both)).toEqual([]);
    await session.query(
      together([
        `INSERT INTO public.child SELECT i, i FROM generate_series(1, 10) i`,
        `TRUNCATE public.parent, public.child`,
        ...fill,
        `TRUNCATE public.child RESTART IDENTITY`,
        `INSERT INTO public.child VALUES (7, 7, 7)`,
      ]),
    );
    expect(await differences(pair, ...both)).toEqual([]);
    await session.query(`TRUNCATE public.parent CASCADE`);
    expect(await differences(pair, ...both)).toEqual([]);
  });
});

describe.each(PAIRS)('what the stream brings besides, from %i to %i', (...versions) => {
  test('empty transactions, messages of others, prepared transactions, heartbeats, other tables', async () => {
    await using pair = await followPair(
      versions,
      `CREATE TABLE public.t (id int PRIMARY KEY, v text)`,
    );
    const { session } = pair.source;
    const writes = [
      `CREATE TABLE public.later (id int)`,
      `INSERT INTO public.later SELECT generate_series(1, 100)`,
      `SELECT pg_logical_emit_message(false, 'understudy', 'not ours')`,
      `SELECT pg_logical_emit_message(true, 'understudy', 'ffffffff 1')`,
      `SELECT pg_logical_emit_message(true, 'other', repeat('x', 100000))`,
      `BEGIN; INSERT INTO public.t VALUES (1, 'a'); SELECT pg_logical_emit_message(false, 'x', ''); SELECT pg_logical_emit_message(true, 'x', 'y'); COMMIT`,
      `BEGIN; INSERT INTO public.t VALUES (2, 'rolled back'); ROLLBACK`,
      `BEGIN; INSERT INTO public.t VALUES (3, 'prepared'); PREPARE TRANSACTION '${pair.source.name} a'`,
      `BEGIN; INSERT INTO public.t VALUES (4, 'given up'); PREPARE TRANSACTION '${pair.source.name} b'`,
      `INSERT INTO public.t VALUES (5, 'between')`,
    ];
    for (const sql of writes) await session.query(sql);
    await pair.caughtUp();
    const [before] = await pair.target.session.query(
      `SELECT string_agg(id::text, ',' ORDER BY id) AS ids FROM public.t`,
    );
    expect(before).toEqual({ ids: '1,5' });
    await session.query(`COMMIT PREPARED '${pair.source.name} a'`);
    await session.query(`ROLLBACK PREPARED '${pair.source.name} b'`);
    expect(await differences(pair, 'public.t')).toEqual([]);
  });

  test('identity and generated columns, and triggers that stay silent (trap 13, complaint 16)', async () => {
    const virtual = versions[0] >= 18 ? ', v int GENERATED ALWAYS AS (n * 3) VIRTUAL' : '';
    const ddl = (identity: string, fires: string): string => `
      CREATE TABLE public.t (id int GENERATED ${identity} AS IDENTITY PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED${virtual}, m text);
      CREATE TABLE public.other (id int PRIMARY KEY, serial int GENERATED ${identity} AS IDENTITY);
      CREATE TABLE public.log (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, what text);
      CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log (what) VALUES (TG_OP); RETURN NULL; END $$;
      CREATE TRIGGER plain AFTER INSERT OR UPDATE OR DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.note();
      CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.note();
      ALTER TABLE public.t ${fires} TRIGGER always`;
    await using pair = await followPair(versions, ddl('ALWAYS', 'ENABLE ALWAYS'), {
      // As a clone makes it while it shadows (trap 13).
      targetDdl: ddl('BY DEFAULT', 'DISABLE'),
    });
    const { session } = pair.source;
    const all = ['public.t', 'public.other', 'public.log'];
    for (const rows of [1, 20, 200]) {
      await session.query(`INSERT INTO public.t (n) SELECT generate_series(1, ${rows})`);
      await session.query(
        `INSERT INTO public.other SELECT 1000 * ${rows} + i FROM generate_series(1, ${rows}) i`,
      );
      expect(await differences(pair, ...all)).toEqual([]);
      await session.query(`UPDATE public.t SET n = n + 1, m = 'm' WHERE n % 2 = 0`);
      await session.query(`UPDATE public.other SET serial = DEFAULT WHERE id % 3 = 0`);
      await session.query(`UPDATE public.other SET id = -id WHERE id % 7 = 0`);
      await session.query(`DELETE FROM public.t WHERE n % 5 = 0`);
      expect(await differences(pair, ...all)).toEqual([]);
    }
  });
});

describe('sizes', () => {
  test('a row of 50 MB, alone and beside others', async () => {
    await using pair = await followPair(
      [14, 18],
      `CREATE TABLE public.big (id int PRIMARY KEY, body text, n int); ALTER TABLE public.big ALTER body SET STORAGE EXTERNAL`,
    );
    const { session } = pair.source;
    await session.query(`INSERT INTO public.big VALUES (1, repeat(md5('a'), 50 * 32768), 0)`);
    await session.query(
      `BEGIN; INSERT INTO public.big SELECT i, repeat('s', 100), 0 FROM generate_series(2, 100) i;
       INSERT INTO public.big VALUES (101, repeat(md5('b'), 8 * 32768), 0); UPDATE public.big SET n = 1; COMMIT`,
    );
    expect(await differences(pair, 'public.big')).toEqual([]);
    await session.query(`UPDATE public.big SET body = body || 'x' WHERE id = 101`);
    await session.query(`DELETE FROM public.big WHERE id = 1`);
    expect(await differences(pair, 'public.big')).toEqual([]);
  });

  test('a thousand tables in one transaction, and wide ones', async () => {
    const columns = Array.from({ length: 600 }, (_, i) => `c${i} int`).join(', ');
    await using pair = await followPair(
      [18, 18],
      `DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE public.t%s (id int PRIMARY KEY, v int)', i); END LOOP; END $$;
       CREATE TABLE public.wide (id int PRIMARY KEY, ${columns})`,
    );
    const { session } = pair.source;
    const everywhere = async (sql: string): Promise<unknown> =>
      session.query(
        `DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('${sql}', i); END LOOP; END $$`,
      );
    await everywhere('INSERT INTO public.t%s SELECT i, 1 FROM generate_series(1, 5) i');
    await everywhere('UPDATE public.t%s SET v = 2 WHERE id < 4');
    await everywhere('DELETE FROM public.t%s WHERE id = 5');
    await session.query(
      `INSERT INTO public.wide (id, c0, c599) SELECT i, i, -i FROM generate_series(1, 100) i`,
    );
    await session.query(`UPDATE public.wide SET c300 = id`);
    const tables = Array.from({ length: 20 }, (_, i) => `public.t${1 + 52 * i}`);
    expect(await differences(pair, ...tables, 'public.wide')).toEqual([]);
    const counts = await Promise.all(
      [pair.source, pair.target].map(async (side) => {
        const union = Array.from(
          { length: 1000 },
          (_, i) => `SELECT count(*) n, sum(v) v FROM public.t${i + 1}`,
        );
        return side.session.query(
          `SELECT sum(n) AS n, sum(v) AS v FROM (${union.join(' UNION ALL ')}) x`,
        );
      }),
    );
    expect(counts[0]).toEqual(counts[1]);
  });
});

test('streams that interleave, and roll back to savepoints, beside small transactions', async () => {
  await using pair = await followPair(
    [18, 18],
    `CREATE TABLE public.big (id int PRIMARY KEY, v text); CREATE TABLE public.small (id int PRIMARY KEY)`,
    { isStreamed: true },
  );
  // Once something has arrived, decoding has its snapshot, without which nothing is streamed.
  await pair.caughtUp();
  const sessions = await Promise.all(
    [0, 1, 2].map(async () =>
      openSession(pair.source.endpoint, { applicationName: 'understudy test' }),
    ),
  );
  try {
    for (const [i, session] of sessions.entries()) {
      await session.query('BEGIN');
      await session.query(
        `INSERT INTO public.big SELECT ${i} + 3 * n, 'a' FROM generate_series(1, 2000) n`,
      );
    }
    for (let round = 0; round < 4; round++) {
      for (const [i, session] of sessions.entries()) {
        await session.query('SAVEPOINT s');
        const from = 10_000 * (round + 1);
        await session.query(
          `INSERT INTO public.big SELECT ${i} + 3 * n, 'b' FROM generate_series(${from}, ${from + 1500}) n`,
        );
        await session.query(
          `UPDATE public.big SET v = 'c${round}' WHERE id % 3 = ${i} AND id < 3000`,
        );
        await session.query((round + i) % 2 === 0 ? 'ROLLBACK TO s' : 'RELEASE s');
        await pair.source.session.query(`INSERT INTO public.small VALUES (${100 * round + i})`);
      }
    }
    await sessions[1]?.query('COMMIT');
    await sessions[0]?.query('ROLLBACK');
    await sessions[2]?.query('COMMIT');
  } finally {
    for (const session of sessions) await session[Symbol.asyncDispose]();
  }
  expect(await differences(pair, 'public.big', 'public.small')).toEqual([]);
  expect(await streamedTransactions(pair)).toBeGreaterThan(2);
});
