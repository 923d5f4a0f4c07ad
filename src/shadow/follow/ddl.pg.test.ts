import { describe, expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { installCapture } from '#src/shadow/ddl/capture.ts';
import { readVersions } from '#src/shadow/ddl/version-ledger.ts';
import { addRelations } from '#src/shadow/ledger.ts';
import {
  differences,
  type FollowedPair,
  followPair,
  type FollowOptions,
  streamedBytes,
} from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { relation, until } from '#test/lane.ts';

/** A pair whose source has the capture. */
async function capturedPair(
  versions: Parameters<typeof followPair>[0],
  ddl: string,
  options: FollowOptions = {},
): Promise<FollowedPair> {
  return followPair(versions, ddl, {
    ...options,
    prepare: async (source) => {
      await installCapture(source.session, source.name.slice(-8));
      return {};
    },
  });
}

type Stopped = Readonly<Record<string, string>>;

/** Stopped tables with what they wait for. */
async function stopped({ target }: FollowedPair): Promise<Stopped> {
  const rows = await target.session.query(
    `SELECT table_name, waits_for FROM understudy.relation WHERE state = 'stopped' ORDER BY 1`,
  );
  return Object.fromEntries(rows.map((row) => [row['table_name'], row['waits_for'] ?? '']));
}

async function history({ target }: FollowedPair, table: string): Promise<readonly string[]> {
  return (await readVersions(target.session))
    .filter((version) => version.table.name === table)
    .map(({ tag, verdict, isExact, change }) =>
      [tag, verdict, isExact ? 'exact' : 'about', change].join(' | '),
    );
}

const SCHEMA = `
CREATE TYPE public.mood AS ENUM ('sad');
CREATE TABLE public.plain (id int PRIMARY KEY, a text);
CREATE TABLE public.other (id int PRIMARY KEY, m public.mood);
CREATE TABLE public.parent (id int NOT NULL, k int NOT NULL, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE public.part1 PARTITION OF public.parent FOR VALUES IN (1);
CREATE TABLE public.part2 PARTITION OF public.parent FOR VALUES IN (2);
CREATE TABLE public.loose (id int NOT NULL, k int NOT NULL, PRIMARY KEY (id, k));`;

/** Commands on a table, what it waits for then, and what is said. */
const STOPPING: readonly (readonly [string, string, string])[] = [
  ['ALTER TABLE ADD b int', 'resume', 'column "b" of type integer was added'],
  ['ALTER TABLE ADD b int DEFAULT 7', 'resume', 'was added with a default'],
  ['ALTER TABLE ADD b float DEFAULT random()', 'reseed', 'its rows were rewritten'],
  ['ALTER TABLE DROP a', 'resume', 'column "a" was dropped'],
  ['ALTER TABLE RENAME a TO b', 'resume', 'column "a" is called "b" now'],
  [
    'ALTER TABLE ALTER a TYPE varchar(40)',
    'reseed',
    'column "a" is of type character varying(40) now',
  ],
  [`ALTER TABLE ALTER a TYPE text USING upper(a)`, 'reseed', 'its rows were rewritten'],
  ['ALTER TABLE RENAME TO other_name', 'resume', 'it is called "public"."other_name" now'],
  ['ALTER TABLE REPLICA IDENTITY FULL', 'resume', 'REPLICA IDENTITY FULL'],
  ['ALTER TABLE ADD g int GENERATED ALWAYS AS (id) STORED', 'reseed', 'generated column "g"'],
  ['ALTER TABLE INHERIT public.up', 'resume', 'it inherits from other tables now'],
  ['DROP TABLE', 'reseed', 'it was dropped'],
];

describe.for(casesOf<readonly [14 | 18, 18]>([14, 18], [18, 18]))('%i to %i', (versions) => {
  test('what is harmless goes on, and is on record with its command (pain 23) (complaint 20)', async () => {
    await using pair = await capturedPair(versions, SCHEMA);
    const { session } = pair.source;
    await session.query(`INSERT INTO public.plain VALUES (1, 'zqrow')`);
    await session.query(`CREATE INDEX ON public.plain (a)`);
    await session.query(
      `ALTER TABLE public.plain ALTER a SET DEFAULT 'zqrow d', ADD CHECK (id > 0)`,
    );
    await session.query(`COMMENT ON TABLE public.plain IS 'zqrow c'; ANALYZE public.plain`);
    await session.query(
      `CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
    );
    await session.query(
      `CREATE TRIGGER t BEFORE INSERT ON public.plain FOR EACH ROW EXECUTE FUNCTION public.f()`,
    );
    await session.query(
      `ALTER TABLE public.plain ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON public.plain USING (true)`,
    );
    await session.query(
      `ALTER TABLE public.plain SET (fillfactor = 50), ALTER id SET STATISTICS 10`,
    );
    await session.query(`CREATE STATISTICS public.s ON id, a FROM public.plain`);
    await session.query(`ALTER TYPE public.mood ADD VALUE 'glad'`);
    await session.query('VACUUM FULL public.plain');
    await session.query('CLUSTER public.plain USING plain_pkey');
    await session.query(`CREATE TABLE public.part3 PARTITION OF public.parent FOR VALUES IN (3)`);
    await session.query(
      `INSERT INTO public.plain VALUES (2, 'zqrow'); INSERT INTO public.parent VALUES (1, 1)`,
    );
    expect(await differences(pair, 'public.plain', 'public.part1')).toEqual([]);
    expect(await stopped(pair)).toEqual({});
    const said = await history(pair, 'plain');
    expect(said[0]).toBe('START | goes on | about | as it was at first');
    expect(said.slice(1).map((line) => line.split(' | ').slice(0, 3).join(' '))).toEqual(
      [
        'CREATE INDEX',
        'ALTER TABLE',
        'COMMENT',
        'CREATE TRIGGER',
        'ALTER TABLE',
        'CREATE POLICY',
        'ALTER TABLE',
        'CREATE STATISTICS',
      ].map((tag) => `${tag} goes on exact`),
    );
    expect(await history(pair, 'other')).toContain(
      'ALTER TYPE | goes on | exact | enum public.mood has a new label "glad", which the target lacks',
    );
    // A row with the label is refused by the target: its table stops then, and no other.
    await session.query(`INSERT INTO public.other VALUES (1, 'glad')`);
    await session.query(`INSERT INTO public.plain VALUES (3, 'zqrow')`);
    expect(await differences(pair, 'public.plain')).toEqual([]);
    expect(await stopped(pair)).toEqual({ other: 'resume' });
  });

  test('what changes rows or stream stops its table at its place, and no other (trap 19)', async () => {
    const tables = STOPPING.map(
      (_, i) => `CREATE TABLE public.t${i} (id int PRIMARY KEY, a text);`,
    );
    await using pair = await capturedPair(versions, [SCHEMA, ...tables].join('\n'));
    const { session } = pair.source;
    const expected: Record<string, string> = {};
    await session.query('CREATE TABLE public.up ()');
    for (const [i, [command, waitsFor, text]] of STOPPING.entries()) {
      const table = `t${i}`;
      const sql = command.replaceAll('TABLE', `TABLE public.${table}`);
      await session.query(`INSERT INTO public.${table} VALUES (1, 'zqrow')`);
      await session.query(`INSERT INTO public.loose VALUES (1, ${i})`);
      // One group: what ends before the change is applied, and nothing of what comes with it or after.
      await session.query(`BEGIN; INSERT INTO public.loose VALUES (2, ${i}); ${sql};
        INSERT INTO public.loose VALUES (3, ${i}); COMMIT`);
      expected[table] = waitsFor;
      expect(await differences(pair, 'public.loose')).toEqual([]);
      expect(await stopped(pair)).toEqual(expected);
      const [recorded] = await pair.target.session.query(
        `SELECT r.stop_message, r.stop_lsn < v.lsn AS is_before,
                (SELECT count(*) FROM public.${table}) AS rows
           FROM understudy.relation r JOIN understudy.schema_version v USING (source_oid)
          WHERE r.table_name = '${table}' AND v.version = 2`,
      );
      expect(recorded?.['stop_message']).toContain(text);
      expect([sql, recorded?.['is_before'], recorded?.['rows']]).toEqual([sql, 't', '1']);
    }
    // Each command is one version, though two triggers told of some.
    const exact = (await readVersions(pair.target.session)).filter(({ isExact }) => isExact);
    expect(exact.length).toBe(STOPPING.length);
  });
});

test('partitions: DETACH and ATTACH stop the tables concerned, the others go on (trap 18)', async () => {
  await using pair = await capturedPair([18, 18], SCHEMA);
  const { session } = pair.source;
  await session.query(
    'INSERT INTO public.parent SELECT g, 1 + g % 2 FROM generate_series(1, 10) g',
  );
  await session.query('ALTER TABLE public.parent DETACH PARTITION public.part1');
  await session.query(
    'INSERT INTO public.part1 VALUES (100, 100); INSERT INTO public.parent VALUES (20, 2)',
  );
  expect(await differences(pair, 'public.part2')).toEqual([]);
  expect(await stopped(pair)).toEqual({ part1: 'resume' });
  await session.query('ALTER TABLE public.parent ATTACH PARTITION public.loose FOR VALUES IN (5)');
  await session.query('INSERT INTO public.parent VALUES (30, 2), (31, 5)');
  expect(await differences(pair, 'public.part2')).toEqual([]);
  expect(await stopped(pair)).toEqual({ loose: 'resume', part1: 'resume' });
  expect(await history(pair, 'part1')).toContain(
    'ALTER TABLE | resume | exact | it was detached from its partitioned table',
  );
});

test('a table that waits for resume is to be copied again once its rows were rewritten', async () => {
  await using pair = await capturedPair([18, 18], SCHEMA);
  const { session } = pair.source;
  await session.query('ALTER TABLE public.plain ADD b int');
  await pair.caughtUp();
  expect(await stopped(pair)).toEqual({ plain: 'resume' });
  await session.query('ALTER TABLE public.plain ALTER b TYPE bigint');
  await pair.caughtUp();
  expect(await stopped(pair)).toEqual({ plain: 'reseed' });
  expect(await history(pair, 'plain')).toEqual([
    'START | goes on | about | as it was at first',
    'ALTER TABLE | resume | exact | column "b" of type integer was added',
    'ALTER TABLE | reseed | exact | column "b" is of type bigint now, and was integer; its rows were rewritten',
  ]);
});

test('a table that came while the others were followed is judged from its hand-over on (trap 19)', async () => {
  await using pair = await capturedPair([18, 18], SCHEMA);
  const { source, target, shadow } = pair;
  const late = 'CREATE TABLE public.late (id int PRIMARY KEY, a text)';
  await source.session.query(`${late}; INSERT INTO public.late VALUES (1, 'zqrow')`);
  await target.session.query(late);
  await pair.caughtUp();
  const tables = await readTables(source.session, EVERYTHING);
  await addRelations(
    target.session,
    shadow.shadowId,
    tables.filter(({ name }) => name === 'late'),
  );
  await until(async () => (await relation(pair, 'late')).state === 'copied', 'it follows');
  // The first that the stream has of it, and no row tells of it.
  await source.session.query('ALTER TABLE public.late ALTER a TYPE text USING upper(a)');
  await pair.caughtUp();
  expect(await stopped(pair)).toEqual({ late: 'reseed' });
});

test('what is rolled back leaves nothing, a large transaction that streams included', async () => {
  await using pair = await capturedPair([18, 18], SCHEMA);
  const { session } = pair.source;
  await session.query(`BEGIN; INSERT INTO public.plain SELECT g, repeat('zqrow', 200) FROM generate_series(1, 5000) g;
    SAVEPOINT s; ALTER TABLE public.plain ADD b int; INSERT INTO public.plain VALUES (-1, 'zqrow', 1);
    ROLLBACK TO SAVEPOINT s; INSERT INTO public.plain VALUES (0, 'zqrow'); COMMIT`);
  expect(await differences(pair, 'public.plain')).toEqual([]);
  expect(await history(pair, 'plain')).toHaveLength(1);
  await session.query(`BEGIN; INSERT INTO public.plain SELECT g, repeat('zqrow', 200) FROM generate_series(10001, 15000) g;
    SAVEPOINT s; ALTER TABLE public.plain ADD b int; INSERT INTO public.plain VALUES (-1, 'zqrow', 1);
    RELEASE SAVEPOINT s; INSERT INTO public.loose VALUES (9, 9); COMMIT`);
  expect(await differences(pair, 'public.loose')).toEqual([]);
  expect(await stopped(pair)).toEqual({ plain: 'resume' });
});

const rows = (from: number) =>
  `INSERT INTO public.plain SELECT g, repeat('zqrow', 50) FROM generate_series(${from}, ${from + 2999}) g`;

test.for(casesOf<readonly [14 | 18, 18]>([14, 18], [18, 18]))(
  'a command that was streamed before it was rolled back to a savepoint never was, from %i to %i (trap 17)',
  async (versions) => {
    await using pair = await capturedPair(versions, SCHEMA, { isStreamed: true });
    const { session } = pair.source;
    // The server sends a message with the transaction's own xid, whatever subtransaction it is of.
    await session.query(`BEGIN; ${rows(1)}; SAVEPOINT s`);
    await session.query(
      `ALTER TABLE public.other ADD gone int; INSERT INTO public.other VALUES (9, 'sad', 9)`,
    );
    await session.query('ALTER TABLE public.plain ALTER a TYPE text USING upper(a)');
    await session.query(
      'SAVEPOINT inner_one; DROP TABLE public.part2; RELEASE SAVEPOINT inner_one',
    );
    const before = await streamedBytes(pair);
    await session.query(`INSERT INTO public.loose SELECT g, g FROM generate_series(1, 20000) g`);
    await until(async () => (await streamedBytes(pair)) > before + 1_000_000, 'it was streamed');
    await session.query('ROLLBACK TO SAVEPOINT s; ALTER TABLE public.loose ADD kept int');
    await session.query(`${rows(3001)}; COMMIT`);
    await session.query(`INSERT INTO public.other VALUES (1, 'sad')`);
    expect(await differences(pair, 'public.plain', 'public.other', 'public.part2')).toEqual([]);
    expect(await stopped(pair)).toEqual({ loose: 'resume' });
    for (const name of ['plain', 'other', 'part2'])
      expect(await history(pair, name)).toHaveLength(1);
    // The number of the column that never was is that of another now.
    await session.query('ALTER TABLE public.other ADD gone int');
    await pair.caughtUp();
    expect(await stopped(pair)).toEqual({ loose: 'resume', other: 'resume' });
  },
);
