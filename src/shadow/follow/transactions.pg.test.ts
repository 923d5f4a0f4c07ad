import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import {
  differences,
  endBackends,
  type FollowedPair,
  followPair,
  streamedTransactions,
} from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/postgres.ts';

const PAIRS = casesOf<readonly [TestVersion, TestVersion]>([14, 18], [18, 18]);

const ITEM = `CREATE TABLE public.item (id int PRIMARY KEY, note text, place int UNIQUE);`;
const fill = (from: number, to: number, note: string): string =>
  `INSERT INTO public.item SELECT i, '${note}' || repeat('zqrow', 40), NULL FROM generate_series(${from}, ${to}) i`;

async function stoppedTables(pair: FollowedPair): Promise<number> {
  const rows = await pair.target.session.query(
    `SELECT FROM understudy.relation WHERE state = 'stopped'`,
  );
  return rows.length;
}

async function untilStreamed(pair: FollowedPair, least: number): Promise<void> {
  const deadline = Date.now() + 20_000;
  while ((await streamedTransactions(pair)) < least) {
    if (Date.now() > deadline) throw new Error('nothing was streamed in time');
    await wait(20);
  }
}

describe.each(PAIRS)('transactions, from %i to %i', (...versions) => {
  test('subtransactions that are rolled back after they were streamed leave nothing, nested ones too (trap 17)', async () => {
    await using pair = await followPair(versions, ITEM, { isStreamed: true });
    const { session } = pair.source;
    // Once something has arrived, decoding has its snapshot, without which nothing is streamed.
    await pair.caughtUp();
    const steps = [
      fill(1, 1000, 'kept'),
      'SAVEPOINT a',
      fill(1001, 2000, 'gone'),
      'SAVEPOINT b',
      fill(2001, 3000, 'gone'),
      // Of a kept row, and undone with it.
      `UPDATE public.item SET note = 'never' WHERE id <= 500`,
      'RELEASE b',
      'ROLLBACK TO a',
      fill(1001, 2000, 'again'),
      'SAVEPOINT c',
      `DELETE FROM public.item WHERE id % 2 = 0`,
      fill(5001, 6000, 'gone'),
      'SAVEPOINT d',
      fill(6001, 7000, 'gone'),
      'ROLLBACK TO d',
      'ROLLBACK TO c',
      'SAVEPOINT e',
      fill(7001, 8000, 'kept'),
      'RELEASE e',
      `UPDATE public.item SET note = 'last' WHERE id BETWEEN 990 AND 1010`,
    ];
    await session.query('BEGIN');
    for (const sql of steps) await session.query(sql);
    await untilStreamed(pair, 1);
    await session.query('COMMIT');
    expect(await differences(pair, 'public.item')).toEqual([]);
    const [row] = await pair.target.session.query(
      `SELECT count(*) AS rows, count(*) FILTER (WHERE note ~ '^(gone|never)') AS undone FROM public.item`,
    );
    expect(row).toEqual({ rows: '3000', undone: '0' });
  });

  test('prepared ones arrive when they commit, whatever is lost in between, and not at all otherwise', async () => {
    await using pair = await followPair(versions, ITEM, { isStreamed: true });
    const { session, name } = pair.source;
    await pair.caughtUp();
    const prepare = async (gid: string, sql: string): Promise<void> => {
      await session.query(`BEGIN; ${sql}; PREPARE TRANSACTION '${name} ${gid}'`);
    };
    await prepare('small', fill(1, 10, 'small'));
    await prepare('large', fill(1000, 3000, 'large'));
    await prepare('small undone', fill(11, 20, 'undone'));
    await prepare('large undone', fill(4000, 6000, 'undone'));
    await session.query(fill(21, 30, 'between'));
    await untilStreamed(pair, 2);
    await pair.caughtUp();
    expect(await endBackends(pair, 'receive')).toBe(1);
    expect(await endBackends(pair, 'apply')).toBe(1);
    await pair.caughtUp();
    const [before] = await pair.target.session.query('SELECT count(*) AS rows FROM public.item');
    expect(before).toEqual({ rows: '10' });
    await session.query(`ROLLBACK PREPARED '${name} large undone'`);
    await session.query(`COMMIT PREPARED '${name} large'`);
    await endBackends(pair, 'receive');
    await session.query(`ROLLBACK PREPARED '${name} small undone'`);
    await session.query(`COMMIT PREPARED '${name} small'`);
    await endBackends(pair, 'apply');
    expect(await differences(pair, 'public.item')).toEqual([]);
    const [after] = await pair.target.session.query('SELECT count(*) AS rows FROM public.item');
    expect(after).toEqual({ rows: String(10 + 10 + 2001) });
  });

  test('a key that is deleted and taken again, in one and in several, is the newest row', async () => {
    await using pair = await followPair(versions, ITEM);
    const { session } = pair.source;
    await session.query(fill(1, 300, 'first'));
    expect(await differences(pair, 'public.item')).toEqual([]);
    // Held, so that what comes is one batch.
    await pair.follower.gate.close({ kind: 'now' });
    await session.query(
      `BEGIN; DELETE FROM public.item WHERE id <= 100; ${fill(1, 100, 'second')};
       DELETE FROM public.item WHERE id <= 50; ${fill(1, 50, 'third')}; COMMIT`,
    );
    for (let round = 0; round < 4; round++) {
      await session.query(`DELETE FROM public.item WHERE id BETWEEN 101 AND 120`);
      await session.query(fill(101, 120, `round ${round}`));
    }
    await session.query(`DELETE FROM public.item WHERE id = 200`);
    await session.query(`UPDATE public.item SET id = 200 WHERE id = 201`);
    await session.query(fill(201, 201, 'new 201'));
    expect(await differences(pair, 'public.item')).toEqual([]);
  });

  test('TRUNCATE … CASCADE, RESTART IDENTITY, of several tables and of some outside of the selection', async () => {
    await using pair = await followPair(
      versions,
      `CREATE TABLE public.parent (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
       CREATE TABLE public.child (id int PRIMARY KEY, parent int REFERENCES public.parent);
       CREATE TABLE public.outside (id int PRIMARY KEY, parent int REFERENCES public.parent);
       CREATE TABLE public.other (id int PRIMARY KEY)`,
      {
        selection: { ...EVERYTHING, tables: ['public.parent', 'public.child', 'public.other'] },
      },
    );
    const { session } = pair.source;
    const all = ['public.parent', 'public.child', 'public.other'];
    const fillAll = `INSERT INTO public.parent (v) SELECT 'zqrow' FROM generate_series(1, 100);
      INSERT INTO public.child SELECT id, id FROM public.parent;
      INSERT INTO public.outside SELECT id, id FROM public.parent;
      INSERT INTO public.other SELECT generate_series(1, 100);`;
    await session.query(fillAll);
    expect(await differences(pair, ...all)).toEqual([]);
    // What the target has there is somebody else's, and stays.
    await pair.target.session.query(`INSERT INTO public.outside VALUES (1, 1)`);
    await session.query('TRUNCATE public.parent RESTART IDENTITY CASCADE');
    expect(await differences(pair, ...all)).toEqual([]);
    const [mine] = await pair.target.session.query('SELECT count(*) AS n FROM public.outside');
    expect(mine).toEqual({ n: '1' });
    await session.query(`TRUNCATE public.other; ${fillAll}`);
    await session.query(
      `BEGIN; TRUNCATE public.other, public.outside, public.child; INSERT INTO public.other VALUES (7);
       SAVEPOINT s; TRUNCATE public.parent CASCADE; ROLLBACK TO s; DELETE FROM public.parent WHERE id > 90; COMMIT`,
    );
    expect(await differences(pair, ...all)).toEqual([]);
    expect(await stoppedTables(pair)).toBe(0);
  });
});

/** A way to a server that loses the answer to every COMMIT that it is told to lose. */
async function openLossyWay(server: { readonly host: string; readonly port: number }) {
  const sockets = new Set<Socket>();
  let lossesLeft = 0;
  let lost = 0;
  const proxy = createServer((near) => {
    const far = connect(server.port, server.host);
    sockets.add(near).add(far);
    let isLosing = false;
    near.on('data', (chunk) => {
      if (lossesLeft > 0 && chunk.includes('; COMMIT\0')) {
        lossesLeft -= 1;
        isLosing = true;
      }
      far.write(chunk);
    });
    far.on('data', (chunk) => {
      // The server has committed: that is what it answers.
      if (isLosing && chunk.includes('COMMIT\0')) {
        lost += 1;
        near.destroy();
        far.destroy();
      } else if (!isLosing) near.write(chunk);
    });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => undefined);
      one.on('close', () => other.destroy());
    }
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const address = proxy.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    lose: (commits: number): void => {
      lossesLeft = commits;
    },
    lost: () => lost,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      proxy.close();
      await once(proxy, 'close');
    },
  };
}

test.each([true, false])(
  'with an origin: %s, a commit whose answer is lost is not made again (trap 15, pain 2)',
  async (isOrigin) => {
    await using ways = new AsyncDisposableStack();
    const opened: Awaited<ReturnType<typeof openLossyWay>>[] = [];
    await using pair = await followPair(
      [18, 18],
      // A second time, each of these changes would show: in a count, or as a refused row.
      `CREATE TABLE public.entry (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);`,
      {
        targetDdl: `CREATE TABLE public.entry (id int PRIMARY KEY, note text)`,
        prepare: async (_, target) => {
          const way = ways.use(await openLossyWay(target.endpoint));
          opened.push(way);
          if (!isOrigin) {
            await target.session.query(
              `CREATE ROLE ${target.name} LOGIN PASSWORD 'password'; GRANT CREATE ON DATABASE ${target.name} TO ${target.name};
               ALTER TABLE public.entry OWNER TO ${target.name}; GRANT SET ON PARAMETER session_replication_role TO ${target.name}`,
            );
            target.dropRoleAfterwards(target.name);
          }
          const role = isOrigin ? {} : { user: target.name, password: 'password' };
          return { target: { ...target.endpoint, ...role, port: way.port } };
        },
      },
    );
    const way = opened[0]!;
    try {
      expect(pair.shadow.originName !== undefined).toBe(isOrigin);
      await pair.caughtUp();
      for (let round = 0; round < 3; round++) {
        way.lose(1);
        await pair.source.session.query(
          `INSERT INTO public.entry (note) SELECT 'zqrow ${round}' FROM generate_series(1, 100)`,
        );
        expect(await differences(pair, 'public.entry')).toEqual([]);
      }
      expect(way.lost()).toBe(3);
      expect(await stoppedTables(pair)).toBe(0);
    } finally {
      await pair.stop();
      if (!isOrigin) {
        const { session, name } = pair.target;
        await session.query(`REVOKE SET ON PARAMETER session_replication_role FROM ${name}`);
      }
    }
  },
);
