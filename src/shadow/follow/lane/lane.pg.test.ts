import { describe, expect, test, vi } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { installCapture } from '#src/shadow/ddl/capture.ts';
import { readVersions } from '#src/shadow/ddl/version-ledger.ts';
import { addRelations, recordPublished } from '#src/shadow/ledger.ts';
import { type FaultProxy, startFaultProxy } from '#test/fault-proxy.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { bringBack, dirtyTables, insert, load, relation, stopped, until } from '#test/lane.ts';
import type { TestVersion } from '#test/postgres.ts';

vi.setConfig({ testTimeout: 90_000 });

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([18, 18], [14, 18]);
const TABLES = ['changed', 'steady'].map(
  (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);`,
);

describe.each(PAIRS)('a table that stopped, from %i to %i', (...versions) => {
  test('goes on where it stopped, while the others never do (trap 19)', async () => {
    await using pair = await followPair(versions, TABLES.join('\n'));
    const { session } = pair.source;
    await insert(session, 'changed', 1, 500);
    await insert(session, 'steady', 1, 500);
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    await using working = await load(pair, (round) => [
      `BEGIN; UPDATE public.changed SET n = n + 1 WHERE id % 50 = ${round % 50};
       UPDATE public.steady SET n = n + 1 WHERE id % 50 = ${round % 50}; COMMIT`,
      `INSERT INTO public.changed (id) VALUES (${1000 + round})`,
      `DELETE FROM public.changed WHERE id = ${990 + round}`,
    ]);
    await session.query('ALTER TABLE public.changed ADD extra text, DROP v');
    await stopped(pair, 'changed');
    await session.query(`UPDATE public.changed SET extra = 'zqrow ' || n WHERE id < 100`);
    const at = pair.follower.meter.appliedLsn;
    await until(async () => pair.follower.meter.appliedLsn > at, 'the others go on');

    await expect(bringBack(pair, 'resume', 'changed')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
      message: expect.stringContaining('"extra" text'),
    });
    await pair.target.session.query('ALTER TABLE public.changed ADD extra text, DROP v');
    await bringBack(pair, 'resume', 'changed');
    expect(working.rounds()).toBeGreaterThan(1);
    await working[Symbol.asyncDispose]();
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    expect(await relation(pair, 'changed')).toMatchObject({ state: 'copied', stop: undefined });
    expect(await dirtyTables(pair)).toEqual(['changed']);
    // It follows like any other.
    await session.query(`UPDATE public.changed SET extra = 'zqrow last'`);
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
  });

  test('is copied again, while the others go on, also one that was made again (trap 2)', async () => {
    await using pair = await followPair(
      versions,
      `${TABLES.join('\n')} CREATE TABLE public.made (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
       CREATE TABLE public.refers (id int PRIMARY KEY REFERENCES public.changed)`,
    );
    const { session } = pair.source;
    for (const name of ['changed', 'steady', 'made']) await insert(session, name, 1, 3_000);
    await session.query('INSERT INTO public.refers SELECT id FROM public.changed');
    expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
    await pair.target.session.query(
      `SET session_replication_role = replica; DELETE FROM public.changed WHERE id <= 1000; RESET session_replication_role`,
    );
    await using working = await load(pair, (round) => [
      `BEGIN; UPDATE public.changed SET n = n + 1 WHERE id % 50 = ${round % 50};
       UPDATE public.steady SET n = n + 1 WHERE id % 50 = ${round % 50}; COMMIT`,
    ]);
    await stopped(pair, 'changed');
    await session.query(
      `DROP TABLE public.made; CREATE TABLE public.made (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0)`,
    );
    await insert(session, 'made', 5_000, 6_000);
    await pair.target.session.query(
      `UPDATE understudy.relation SET state = 'stopped', stop_message = 'gone', stop_code = 'TABLE_CHANGED',
              waits_for = 'reseed' WHERE table_name = 'made'`,
    );
    await expect(bringBack(pair, 'resume', 'made')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
    });
    await bringBack(pair, 'reseed', 'changed', 'made');
    await working[Symbol.asyncDispose]();
    await insert(session, 'made', 7_000, 7_010);
    const names = ['public.changed', 'public.steady', 'public.made', 'public.refers'];
    expect(await differences(pair, ...names)).toEqual([]);
    await expect(bringBack(pair, 'reseed', 'steady')).rejects.toMatchObject({
      code: 'RETURN_REFUSED',
      message: expect.stringContaining('has not stopped'),
    });
  });
});

test('two tables come back at once, and one that meets another shape stops again where it is', async () => {
  await using pair = await followPair(
    [14, 18],
    ['first', 'second', 'steady']
      .map((name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int DEFAULT 0);`)
      .join('\n'),
  );
  const { source, target } = pair;
  for (const name of ['first', 'second']) {
    await insert(source.session, name, 1, 100);
    await source.session.query(`ALTER TABLE public.${name} ADD a text`);
    await source.session.query(`UPDATE public.${name} SET a = 'zqrow a' WHERE id < 50`);
    await stopped(pair, name);
  }
  // One transaction of each shape, and changes before, between and after them.
  await source.session.query(
    `UPDATE public.first SET n = n + 1; UPDATE public.second SET n = n + 1`,
  );
  await source.session.query(
    `BEGIN; UPDATE public.first SET n = 7 WHERE id = 7; ALTER TABLE public.first RENAME a TO b;
     UPDATE public.first SET b = 'zqrow b' WHERE id = 7; TRUNCATE public.second, public.steady; COMMIT`,
  );
  await insert(source.session, 'second', 200, 300);
  await source.session.query(`UPDATE public.first SET b = 'zqrow c' WHERE id = 8`);
  await target.session.query(
    'ALTER TABLE public.first ADD b text; ALTER TABLE public.second ADD a text',
  );
  // The stream begins with a column that the target has under its later name only.
  await expect(bringBack(pair, 'resume', 'first', 'second')).rejects.toMatchObject({
    code: 'TABLE_STOPPED',
    message: expect.stringContaining('"a" is not on the target'),
  });
  expect(await relation(pair, 'first')).toMatchObject({
    state: 'stopped',
    stop: { code: 'TABLE_CHANGED', waitsFor: 'resume' },
  });
  await until(async () => (await relation(pair, 'second')).state === 'copied', 'second follows');
  expect(await differences(pair, 'public.second', 'public.steady')).toEqual([]);

  // With a column for each name it goes on where it stopped; what is left over is somebody else's business.
  await target.session.query('ALTER TABLE public.first ADD a text');
  await bringBack(pair, 'resume', 'first');
  await target.session.query(
    `UPDATE public.first SET b = a WHERE b IS NULL; ALTER TABLE public.first DROP a`,
  );
  expect(await differences(pair, 'public.first', 'public.second', 'public.steady')).toEqual([]);
  expect(await dirtyTables(pair)).toEqual(['first', 'second', 'steady']);
});

/** With event triggers on the source; `changed` has stopped, and can be resumed. */
async function resumablePair(): Promise<FollowedPair> {
  await using owned = new AsyncDisposableStack();
  const pair = owned.use(
    await followPair([18, 18], TABLES.join('\n'), {
      prepare: async (source) => {
        await installCapture(source.session, source.name.slice(-8));
        return {};
      },
    }),
  );
  const { source, target } = pair;
  for (const name of ['changed', 'steady']) await insert(source.session, name, 1, 100);
  await source.session.query('ALTER TABLE public.changed ADD a text');
  await stopped(pair, 'changed');
  await target.session.query('ALTER TABLE public.changed ADD a text');
  owned.move();
  return pair;
}

test('a column that came while a lane was under way is one of the table afterwards (trap 19)', async () => {
  await using pair = await resumablePair();
  const { source, target } = pair;
  const turn = await pair.follower.gate.claim(AbortSignal.timeout(30_000));
  const back = bringBack(pair, 'resume', 'changed');
  const isOnItsWay = async () => (await relation(pair, 'changed')).state === 'catching up';
  await until(isOnItsWay, 'it is on its way');
  for (const { session } of [target, source]) {
    await session.query('ALTER TABLE public.changed ADD b int');
  }
  await source.session.query('UPDATE public.changed SET b = 1 WHERE id = 1');
  turn[Symbol.dispose]();
  await back;
  expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
  expect((await relation(pair, 'changed')).columns).toEqual(
    ['id', 'v', 'n', 'a', 'b'].map((name, i) => expect.objectContaining({ name, attnum: i + 1 })),
  );
  await source.session.query('ALTER TABLE public.changed RENAME b TO c');
  await pair.caughtUp();
  expect(await relation(pair, 'changed')).toMatchObject({
    state: 'stopped',
    stop: { message: expect.stringContaining('column "b" is called "c" now') },
  });
});

test('a table that got a column meanwhile stops again at the hand-over, however busy the others are (trap 19)', async () => {
  await using pair = await resumablePair();
  const { source, target } = pair;
  await using working = await load(pair, (round) => [
    `UPDATE public.steady SET n = ${round} WHERE id = ${round % 100}`,
  ]);
  const { gate, meter } = pair.follower;
  // So that the lane cannot hand it over yet.
  const turn = await gate.claim(AbortSignal.timeout(30_000));
  const failure = bringBack(pair, 'resume', 'changed').catch((error: unknown) => error);
  const isOnItsWay = async () => (await relation(pair, 'changed')).state === 'catching up';
  await until(isOnItsWay, 'it is on its way');
  await source.session.query('ALTER TABLE public.changed ADD b int');
  await until(
    async () => (await readVersions(target.session)).some(({ change }) => change.includes('"b"')),
    'the change is on record',
  );
  turn[Symbol.dispose]();
  // The main loop goes on between any two attempts of the lane.
  const over = new AbortController();
  const between = (async () => {
    while (!over.signal.aborted) {
      using _ = await gate.claim(over.signal);
      const at = meter.appliedLsn;
      await until(async () => over.signal.aborted || meter.appliedLsn > at, 'the others go on');
    }
  })();
  expect(await failure).toMatchObject({
    code: 'TABLE_STOPPED',
    message: expect.stringContaining('"b" is not on the target'),
  });
  over.abort();
  await between.catch(() => undefined);
  await target.session.query('ALTER TABLE public.changed ADD b int');
  await bringBack(pair, 'resume', 'changed');
  await working[Symbol.asyncDispose]();
  await source.session.query('UPDATE public.changed SET b = 1');
  expect(await differences(pair, 'public.changed', 'public.steady')).toEqual([]);
});

test('a large transaction that streams is replayed by a lane (trap 17)', async () => {
  await using pair = await followPair(
    [18, 18],
    'CREATE TABLE public.t (id int PRIMARY KEY, v text, n int); CREATE TABLE public.steady (id int PRIMARY KEY)',
    { isStreamed: true },
  );
  const { source, target } = pair;
  await insert(source.session, 't', 1, 10);
  await source.session.query('ALTER TABLE public.t ADD a text');
  await source.session.query(
    `BEGIN; INSERT INTO public.t SELECT i, 'zqrow', i FROM generate_series(100, 30000) i;
     SAVEPOINT s; INSERT INTO public.t SELECT i, 'zqrow', i FROM generate_series(50000, 60000) i; ROLLBACK TO s;
     ALTER TABLE public.t ADD b int; UPDATE public.t SET a = 'zqrow', b = id WHERE id % 3 = 0; COMMIT`,
  );
  await stopped(pair, 't');
  await target.session.query('ALTER TABLE public.t ADD a text, ADD b int');
  await bringBack(pair, 'resume', 't');
  expect(await differences(pair, 'public.t', 'public.steady')).toEqual([]);
});

test('tables that are added while others follow are published, copied and followed', async () => {
  await using pair = await followPair(
    [14, 18],
    'CREATE TABLE public.steady (id int PRIMARY KEY, v text, n int DEFAULT 0)',
  );
  const { source, target, shadow } = pair;
  const ddl = ['one', 'two']
    .map((name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int DEFAULT 0);`)
    .join('\n');
  await source.session.query(ddl);
  for (const name of ['one', 'two', 'steady']) await insert(source.session, name, 1, 1_000);
  await target.session.query(ddl);
  await using working = await load(pair, (round) =>
    ['one', 'two', 'steady'].map(
      (name) => `UPDATE public.${name} SET n = ${round} WHERE id % 9 = ${round % 9}`,
    ),
  );
  const tables = await readTables(source.session, EVERYTHING);
  await addRelations(
    target.session,
    shadow.shadowId,
    tables.filter(({ name }) => name !== 'steady'),
  );
  for (const name of ['one', 'two']) {
    await until(async () => (await relation(pair, name)).state === 'copied', `${name} follows`);
  }
  await working[Symbol.asyncDispose]();
  expect(await differences(pair, 'public.one', 'public.two', 'public.steady')).toEqual([]);
});

test('past its bound the spool lets the oldest stopped table go, which can only be copied again (trap 16)', async () => {
  await using pair = await followPair(
    [18, 18],
    ['old', 'young', 'steady']
      .map((name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int DEFAULT 0);`)
      .join('\n'),
    { segmentBytes: 100_000, stoppedSpoolBytesMax: 1_000_000 },
  );
  const { source } = pair;
  for (const name of ['old', 'young', 'steady']) await insert(source.session, name, 1, 2_000);
  await source.session.query('ALTER TABLE public.old ADD a text');
  await source.session.query(`UPDATE public.old SET a = 'zqrow' WHERE id = 1`);
  await stopped(pair, 'old');
  await until(async () => {
    await source.session.query(`UPDATE public.steady SET n = n + 1 WHERE id <= 150`);
    return (await relation(pair, 'old')).spoolBytes > 300_000;
  }, 'the spool keeps something for it');
  await source.session.query('ALTER TABLE public.young ADD a text');
  await source.session.query(`UPDATE public.young SET a = 'zqrow' WHERE id = 1`);
  await stopped(pair, 'young');
  await until(async () => {
    await source.session.query(`UPDATE public.steady SET n = n + 1 WHERE id <= 150`);
    return !(await relation(pair, 'old')).isSpooled;
  }, 'the oldest was let go');
  expect(await relation(pair, 'old')).toMatchObject({
    state: 'stopped',
    spoolBytes: 0,
    stop: { code: 'TABLE_CHANGED', waitsFor: 'reseed' },
  });
  expect(await relation(pair, 'young')).toMatchObject({ isSpooled: true });
  const notices = pair.events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));
  expect(notices.join('\n')).toContain(
    'the changes of stopped table "public"."old" are not kept any more',
  );
  await pair.target.session.query(
    'ALTER TABLE public.old ADD a text; ALTER TABLE public.young ADD a text',
  );
  await expect(bringBack(pair, 'resume', 'old')).rejects.toMatchObject({ code: 'RETURN_REFUSED' });
  await bringBack(pair, 'resume', 'young');
  await bringBack(pair, 'reseed', 'old');
  expect(await differences(pair, 'public.old', 'public.young', 'public.steady')).toEqual([]);
});

test('while it is not known whether a table was handed over, nothing passes that position', async () => {
  let proxy: FaultProxy | undefined;
  await using pair = await followPair([18, 18], TABLES.join('\n'), {
    prepare: async (_, target) => {
      proxy = await startFaultProxy(target.endpoint);
      return { target: proxy.endpoint };
    },
  });
  await using _ = proxy;
  const { session } = pair.source;
  await insert(session, 'changed', 1, 100);
  await session.query('ALTER TABLE public.changed ADD extra text');
  await session.query(`UPDATE public.changed SET extra = 'zqrow'`);
  await stopped(pair, 'changed');
  await pair.target.session.query('ALTER TABLE public.changed ADD extra text');
  await using working = await load(pair, (round) => [
    `UPDATE public.changed SET n = ${round} WHERE id = ${round % 100}`,
  ]);
  // The server gets the COMMIT long after the lane has lost its connection.
  const links = / lane$/;
  proxy?.onText({ links, direction: 'toServer', text: 'is_in_lane = false' }, () =>
    proxy?.onText({ links, direction: 'toServer', text: 'COMMIT' }, () => {
      proxy?.inject({ kind: 'delay', links, direction: 'toServer', ms: 3_000 });
      setTimeout(() => proxy?.inject({ kind: 'abandon', links }), 100);
    }),
  );
  await Promise.race([bringBack(pair, 'resume', 'changed'), pair.ended]).catch(() => undefined);
  await until(async () => (await relation(pair, 'changed')).state === 'copied', 'the COMMIT came');
  expect(working.rounds()).toBeGreaterThan(10);
  expect(pair.follower.meter.appliedLsn).toBe((await relation(pair, 'changed')).startLsn);
  expect(await pair.ended).toMatchObject({ code: 'CONNECTION_LOST' });
});

test('a table that was published anew for a copy which failed cannot be resumed (trap 14)', async () => {
  await using pair = await followPair([18, 18], TABLES.join('\n'));
  const { source, target, shadow } = pair;
  await source.session.query('ALTER TABLE public.changed ADD extra text');
  await insert(source.session, 'changed', 1, 5);
  await stopped(pair, 'changed');
  const before = await relation(pair, 'changed');
  expect(before).toMatchObject({ isSpooled: true, stop: { waitsFor: 'resume' } });
  // Its changes since it stopped may have been left out before this entry was made.
  const parts = new Map([[before.sourceOid, 'entry 1 2']]);
  await recordPublished(target.session, shadow.shadowId, parts);
  expect(await relation(pair, 'changed')).toMatchObject({
    isSpooled: false,
    stop: { waitsFor: 'reseed', lsn: before.stop?.lsn },
  });
  expect(await relation(pair, 'steady')).toMatchObject({ state: 'copied', stop: undefined });
});
