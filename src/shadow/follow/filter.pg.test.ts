import { expect, test, vi } from 'vitest';

import { parseColumnExclusion, parseRowFilter } from '#src/core/row-filter.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { systemClock } from '#src/lib/clock.ts';
import { SchemaWatch } from '#src/shadow/follow/watch/schema-watch.ts';
import { readRelationRecords } from '#src/shadow/ledger.ts';
import { returnTables } from '#src/shadow/return-tables.ts';
import { type FollowedPair, followPair } from '#test/follower.ts';
import type { TestVersion } from '#test/postgres.ts';

/** Out of line, since it does not shrink: what an UPDATE of another column leaves out of the stream. */
const BIG = `(SELECT string_agg(md5((i * 7)::text), 'zqrow') FROM generate_series(1, 300) i)`;

const DDL = `
  CREATE TABLE public.keyed (id int PRIMARY KEY, note text, big text);
  CREATE TABLE public.full (id int PRIMARY KEY, note text, big text);
  ALTER TABLE public.full REPLICA IDENTITY FULL;
  CREATE TABLE public.other (id int PRIMARY KEY, note text);`;

const SELECTION = {
  ...EVERYTHING,
  where: ['public.keyed: id > 100', "public.full: id > 100 AND note <> 'out'"].map(parseRowFilter),
  excludeColumns: [parseColumnExclusion('public.other.note')],
};

test.each<readonly [TestVersion, TestVersion]>([
  [15, 18],
  [18, 18],
])(
  'from %i to %i a row that comes into the filter without its large value stops its table (trap 11)',
  async (...versions) => {
    await using pair = await followPair(versions, DDL, { selection: SELECTION });
    const { source, target } = pair;
    const rows = async (sql: string) => (await target.session.query(sql))[0];
    await source.session.query(`
      INSERT INTO public.keyed SELECT i, 'n', ${BIG} FROM generate_series(99, 104) i;
      INSERT INTO public.full SELECT i, CASE i WHEN 104 THEN 'out' ELSE 'n' END, ${BIG} FROM generate_series(99, 104) i;
      INSERT INTO public.other SELECT i, 'zqrow' FROM generate_series(1, 9) i`);
    // Within the filter, out of it, and into it with every value; each as the server sends it.
    await source.session.query(`
      UPDATE public.keyed SET id = 110 WHERE id = 101;
      UPDATE public.keyed SET note = 'm' WHERE id = 102;
      UPDATE public.keyed SET id = 3 WHERE id = 103;
      UPDATE public.keyed SET id = 199, big = 'small' WHERE id = 99;
      UPDATE public.full SET id = 110 WHERE id = 101;
      UPDATE public.full SET id = 3 WHERE id = 103;
      UPDATE public.full SET note = 'in' WHERE id = 104;
      UPDATE public.full SET id = 200 WHERE id = 100;
      UPDATE public.other SET note = 'zqrow changed', id = id + 10 WHERE id < 5`);
    await pair.caughtUp();
    const shown = `SELECT string_agg(concat_ws(':', id, note, length(big)), ' ' ORDER BY id) AS rows FROM public.`;
    const [length] = await source.session.query(`SELECT length(${BIG}) AS n`);
    const n = length?.['n'];
    expect(await rows(`${shown}keyed`)).toEqual({
      rows: `102:m:${n} 104:n:${n} 110:n:${n} 199:n:5`,
    });
    // Under FULL the old row is in the WAL, so nothing is missing.
    expect(await rows(`${shown}full`)).toEqual({
      rows: `102:n:${n} 104:in:${n} 110:n:${n} 200:n:${n}`,
    });
    expect(await rows('SELECT count(*) AS rows, count(note) AS notes FROM public.other')).toEqual({
      rows: '9',
      notes: '0',
    });

    await source.session.query(`
      BEGIN; UPDATE public.keyed SET id = 300 WHERE id = 100; INSERT INTO public.other VALUES (100); COMMIT;
      DELETE FROM public.keyed WHERE id = 102`);
    await pair.caughtUp();
    const records = await readRelationRecords(target.session, pair.shadow.shadowId);
    expect(
      records.map(({ name, state, stop }) => [name, state, stop?.code, stop?.waitsFor]),
    ).toEqual([
      ['full', 'copied', undefined, undefined],
      ['keyed', 'stopped', 'ROW_INCOMPLETE', 'reseed'],
      ['other', 'copied', undefined, undefined],
    ]);
    // As of the transaction before, and the others go on.
    expect(await rows(`${shown}keyed`)).toEqual({
      rows: `102:m:${n} 104:n:${n} 110:n:${n} 199:n:5`,
    });
    expect(await rows('SELECT count(*) AS rows FROM public.other')).toEqual({ rows: '10' });
    expect(JSON.stringify(pair.events)).not.toContain('zqrow');
  },
);

const PARTS = `
  CREATE TABLE public.parts (id int PRIMARY KEY, card text NOT NULL DEFAULT 'zqrow', note text) PARTITION BY RANGE (id);
  CREATE TABLE public.part_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);`;

const DEADLINE = { timeout: 60_000, interval: 50 };

async function bringBack(pair: FollowedPair, kind: 'resume' | 'reseed', name: string) {
  await using target = await openSession(pair.target.endpoint, { applicationName: 'test' });
  await returnTables(
    {
      target,
      shadowId: pair.shadow.shadowId,
      clock: systemClock,
      report: () => undefined,
      signal: AbortSignal.timeout(DEADLINE.timeout),
    },
    kind,
    [{ schema: 'public', name }],
  );
}

test('what is copied again, gets a column or arrives as a partition is filtered as ever', async () => {
  await using pair = await followPair([15, 18], DDL + PARTS, {
    targetDdl: DDL + PARTS.replace("NOT NULL DEFAULT 'zqrow'", ''),
    selection: {
      ...SELECTION,
      where: [...SELECTION.where, parseRowFilter('public.parts: id % 2 = 0')],
      excludeColumns: [...SELECTION.excludeColumns, parseColumnExclusion('public.parts.card')],
    },
  });
  const { source, target, shadow } = pair;
  const { session } = source;
  const rows = async (sql: string) => (await target.session.query(sql))[0];
  const states = async () => {
    const records = await readRelationRecords(target.session, shadow.shadowId);
    return Object.fromEntries(records.map(({ name, state }) => [name, state]));
  };
  await using watching = await openSession(source.endpoint, { applicationName: 'watch' });
  await using told = await openSession(target.endpoint, { applicationName: 'watch' });
  const watch = new SchemaWatch({
    source: watching,
    target: told,
    sourceEndpoint: source.endpoint,
    publication: { name: shadow.publicationName ?? '', oid: shadow.publicationOid ?? 0 },
    selection: shadow.selection,
    shadowId: shadow.shadowId,
    hasTriggers: false,
    appliedLsn: () => pair.follower.meter.appliedLsn,
    report: () => undefined,
    signal: new AbortController().signal,
  });
  await session.query(`
    INSERT INTO public.keyed SELECT i, 'n', ${BIG} FROM generate_series(99, 104) i;
    INSERT INTO public.other SELECT i, 'zqrow' FROM generate_series(1, 9) i;
    INSERT INTO public.parts (id) SELECT i FROM generate_series(0, 99) i`);
  await pair.caughtUp();
  await watch.look();
  await session.query('UPDATE public.keyed SET id = 300 WHERE id = 100');
  await vi.waitFor(
    async () => expect(await states()).toMatchObject({ keyed: 'stopped' }),
    DEADLINE,
  );
  await bringBack(pair, 'reseed', 'keyed');
  await vi.waitFor(async () => expect(await states()).toMatchObject({ keyed: 'copied' }), DEADLINE);
  await session.query(
    'DELETE FROM public.keyed WHERE id = 102; UPDATE public.keyed SET id = 5 WHERE id = 103',
  );
  await pair.caughtUp();
  expect(
    await rows('SELECT json_agg(id ORDER BY id) AS ids, count(big) AS big FROM public.keyed'),
  ).toEqual({ ids: '[101, 104, 300]', big: '3' });

  // The publication's list does not grow with the table.
  await session.query('ALTER TABLE public.other ADD extra int');
  await session.query('UPDATE public.other SET extra = id');
  await target.session.query('ALTER TABLE public.other ADD extra int');
  await vi.waitFor(async () => {
    await watch.look();
    expect(await states()).toMatchObject({ other: 'stopped' });
  }, DEADLINE);
  await expect(bringBack(pair, 'resume', 'other')).rejects.toThrow(/list of columns .* reseed it/);
  await bringBack(pair, 'reseed', 'other');
  await vi.waitFor(async () => expect(await states()).toMatchObject({ other: 'copied' }), DEADLINE);
  await session.query('UPDATE public.other SET extra = 100 WHERE id = 9');
  await pair.caughtUp();
  expect(await rows('SELECT sum(extra) AS sum, count(note) AS notes FROM public.other')).toEqual({
    sum: '136',
    notes: '0',
  });

  await session.query(`
    CREATE TABLE public.part_2 PARTITION OF public.parts FOR VALUES FROM (100) TO (200);
    INSERT INTO public.parts (id) SELECT i FROM generate_series(100, 150) i`);
  await vi.waitFor(async () => {
    await watch.look();
    expect(await states()).toMatchObject({ part_2: 'copied' });
  }, DEADLINE);
  await session.query('INSERT INTO public.parts (id) SELECT i FROM generate_series(151, 160) i');
  await pair.caughtUp();
  expect(
    await rows(
      'SELECT count(*) AS rows, sum(id % 2) AS odd, count(card) AS cards FROM public.parts',
    ),
  ).toEqual({ rows: '81', odd: '0', cards: '0' });
});
