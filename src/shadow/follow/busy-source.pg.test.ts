import { describe, expect, test } from 'vitest';

import { parseLsn } from '#src/core/lsn.ts';
import { differences, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([14, 18], [18, 18]);

/** What happens on a source besides changes of rows by its own clients. */
describe.each(PAIRS)('from %i to %i', (...versions) => {
  test('a database in which nothing happens lets go of the WAL of a busy one beside it (pain 17)', async () => {
    await using pair = await followPair(versions, 'CREATE TABLE public.idle (id int PRIMARY KEY)');
    await using busy = await createTestDatabase(
      versions[0],
      'CREATE TABLE public.t (id int, filler text)',
    );
    await pair.caughtUp();
    const confirmed = async (): Promise<bigint> => {
      const [row] = await pair.source.session.query(
        'SELECT confirmed_flush_lsn AS lsn FROM pg_replication_slots WHERE slot_name = $1',
        [pair.shadow.slotName ?? ''],
      );
      return parseLsn(row?.['lsn'] ?? '') ?? 0n;
    };
    await busy.session.query(
      `INSERT INTO public.t SELECT i, repeat('zqrow', 100) FROM generate_series(1, 20000) i`,
    );
    const [row] = await busy.session.query('SELECT pg_current_wal_lsn() AS lsn');
    const written = parseLsn(row?.['lsn'] ?? '') ?? 0n;
    await expect.poll(confirmed, { timeout: 30_000 }).toBeGreaterThanOrEqual(written);
  });

  test('changes that came to the source by replication are followed like its own (pain 21)', async () => {
    await using pair = await followPair(
      versions,
      'CREATE TABLE public.t (id int PRIMARY KEY, v text)',
    );
    const { session, name } = pair.source;
    pair.source.dropOriginAfterwards(name);
    await session.query('SELECT pg_replication_origin_create($1)', [name]);
    await session.query('SELECT pg_replication_origin_session_setup($1)', [name]);
    await session.query(
      `BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', now());
       INSERT INTO public.t SELECT i, 'zqrow' FROM generate_series(1, 100) i; COMMIT`,
    );
    await session.query('SELECT pg_replication_origin_session_reset()');
    await session.query(`UPDATE public.t SET v = 'own' WHERE id % 2 = 0`);
    expect(await differences(pair, 'public.t')).toEqual([]);
  });

  test('refreshed views, temporary and unlogged tables, VACUUM FULL and CLUSTER change nothing (pain 23)', async () => {
    await using pair = await followPair(
      versions,
      `CREATE TABLE public.t (id int PRIMARY KEY, v text);
       CREATE MATERIALIZED VIEW public.seen AS SELECT id, v FROM public.t;
       CREATE UNIQUE INDEX ON public.seen (id);`,
    );
    const { session } = pair.source;
    const steps = [
      `INSERT INTO public.t SELECT i, 'zqrow' || i FROM generate_series(1, 500) i`,
      'REFRESH MATERIALIZED VIEW public.seen',
      `UPDATE public.t SET v = 'new' WHERE id % 3 = 0`,
      'REFRESH MATERIALIZED VIEW CONCURRENTLY public.seen',
      'CREATE TEMPORARY TABLE scratch AS SELECT * FROM public.t',
      'UPDATE scratch SET v = NULL; DELETE FROM scratch',
      'CREATE UNLOGGED TABLE public.hasty (id int); INSERT INTO public.hasty SELECT 1; TRUNCATE public.hasty',
      'VACUUM FULL public.t',
      `UPDATE public.t SET id = -id, v = 'moved' WHERE id % 7 = 0`,
      'CLUSTER public.t USING t_pkey',
      'DELETE FROM public.t WHERE id % 5 = 0',
      'ANALYZE public.t; REINDEX TABLE public.t',
      `INSERT INTO public.t VALUES (10000, 'after')`,
    ];
    for (const sql of steps) await session.query(sql);
    expect(await differences(pair, 'public.t')).toEqual([]);
    const stopped = await pair.target.session.query(
      `SELECT FROM understudy.relation WHERE state = 'stopped'`,
    );
    expect(stopped).toEqual([]);
  });
});
