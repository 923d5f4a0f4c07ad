import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { startReplication } from '#src/db/postgres/replication/replication.ts';
import { type FaultProxy, startFaultProxy } from '#test/fault-proxy.ts';
import { differences, type FollowedPair, followPair } from '#test/follower.ts';
import type { TestDatabase, TestVersion } from '#test/postgres.ts';

const ITEM = `CREATE TABLE public.item (id int PRIMARY KEY, n int NOT NULL, address text UNIQUE);`;
const WAIT_MS = 20_000;

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`${what}: not so in time`);
    await wait(50);
  }
}

const fill = (from: number, to: number): string =>
  `INSERT INTO public.item SELECT i, 0, 'a' || i FROM generate_series(${from}, ${to}) i`;

async function survivesItsConnection(pair: FollowedPair): Promise<readonly string[]> {
  const { session } = pair.source;
  for (let round = 0; round < 3; round++) {
    await session.query(fill(100 * round, 100 * round + 99));
    await session.query(`UPDATE public.item SET n = n + 1`);
    await endBackends(pair.target.session, `understudy ${pair.shadow.shadowId} apply`);
    await session.query(`UPDATE public.item SET n = n + 1 WHERE id % 2 = 0`);
    await pair.caughtUp();
  }
  return differences(pair, 'public.item');
}

describe('a target role that is no superuser', () => {
  type Grants = { readonly origin: boolean; readonly parameter: boolean };

  async function followAs(
    versions: readonly [TestVersion, TestVersion],
    grants: Grants,
    work: (pair: FollowedPair) => Promise<void>,
  ): Promise<void> {
    const prepare = async (_: TestDatabase, target: TestDatabase) => {
      const role = target.name;
      target.dropRoleAfterwards(role);
      const origins = ['create', 'drop', 'session_setup'];
      const statements = [
        `CREATE ROLE ${role} LOGIN PASSWORD 'zqpass'`,
        `GRANT CREATE ON DATABASE ${target.name} TO ${role}`,
        `ALTER TABLE public.item OWNER TO ${role}`,
        ...(grants.parameter ? [`GRANT SET ON PARAMETER session_replication_role TO ${role}`] : []),
        ...(grants.origin
          ? [
              `DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc
                WHERE proname = ANY ('{${origins.map((name) => `pg_replication_origin_${name}`).join(',')}}')
                LOOP EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO ${role}', f); END LOOP; END $$`,
            ]
          : []),
      ];
      for (const sql of statements) await target.session.query(sql);
      return { target: { ...target.endpoint, user: role, password: 'zqpass' } };
    };
    await using pair = await followPair(versions, ITEM, { prepare });
    try {
      await work(pair);
    } finally {
      await pair.stop();
      const { session, name } = pair.target;
      // The one grant that does not go with the database.
      if (grants.parameter) {
        await session.query(`REVOKE SET ON PARAMETER session_replication_role FROM ${name}`);
      }
    }
  }

  test.each<readonly [TestVersion, TestVersion]>([
    [14, 15],
    [17, 18],
  ])('needs no origin, from %i to %i', async (...versions) => {
    await followAs(versions, { origin: false, parameter: true }, async (pair) => {
      expect(pair.shadow.originName).toBeUndefined();
      expect(await survivesItsConnection(pair)).toEqual([]);
    });
  });

  test('tags what it applies with an origin where it may', async () => {
    await followAs([18, 18], { origin: true, parameter: true }, async (pair) => {
      expect(pair.shadow.originName).toBeDefined();
      expect(await survivesItsConnection(pair)).toEqual([]);
    });
  });

  test('that may not bypass triggers is refused, on 14 always (trap 13)', async () => {
    await followAs([14, 14], { origin: false, parameter: false }, async (pair) => {
      expect(await pair.ended).toMatchObject({ code: 'PRIVILEGE_MISSING' });
    });
  });

  test('finds that its progress is gone before it commits without it', async () => {
    await followAs([17, 18], { origin: false, parameter: true }, async (pair) => {
      await pair.source.session.query(fill(1, 10));
      await pair.caughtUp();
      await pair.target.session.query('DELETE FROM understudy.progress');
      await pair.source.session.query(fill(11, 20));
      expect(await pair.ended).toMatchObject({ code: 'PROGRESS_LOST' });
      const [row] = await pair.target.session.query('SELECT count(*) AS n FROM public.item');
      expect(row).toEqual({ n: '10' });
    });
  });
});

test.each<readonly [TestVersion, TestVersion, string]>([
  [14, 14, 'PERFORM pg_terminate_backend(pg_backend_pid())'],
  [14, 16, `RAISE 'not yet' USING ERRCODE = '40001'`],
  [18, 18, `RAISE 'not yet' USING ERRCODE = '40001'`],
])(
  'from %i to %i, a commit that fails moves no progress: its rows are applied again, and once (trap 15)',
  async (from, to, failure) => {
    const table =
      'CREATE TABLE public.entry (v text); ALTER TABLE public.entry REPLICA IDENTITY FULL;';
    await using pair = await followPair([from, to], table, {
      targetDdl: `${table} CREATE SEQUENCE public.commits;
        CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN IF nextval('public.commits') = 2 THEN ${failure}; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON public.entry DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION public.fail_once();
        ALTER TABLE public.entry ENABLE ALWAYS TRIGGER fails`,
    });
    for (const value of ['one', 'two', 'three']) {
      await pair.source.session.query(
        `INSERT INTO public.entry VALUES ('zqrow ${value}'); DELETE FROM public.entry WHERE v = 'zqrow no'`,
      );
      expect(await differences(pair, 'public.entry')).toEqual([]);
    }
    const [row] = await pair.target.session.query('SELECT last_value FROM public.commits');
    expect(row).toEqual({ last_value: '4' });
  },
);

async function endBackends(session: Session, applicationName: string): Promise<number> {
  const rows = await session.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`,
    [applicationName],
  );
  return rows.length;
}

test('a runner whose lease was taken stops without effect (trap 20)', async () => {
  await using pair = await followPair([18, 18], ITEM);
  const { session } = pair.source;
  await session.query(fill(1, 100));
  expect(await differences(pair, 'public.item')).toEqual([]);
  await pair.follower.gate.close({ kind: 'now' });
  // A batch that fails with a unique violation, and is then replayed in the order of the source.
  await session.query(
    `BEGIN; UPDATE public.item SET address = 'x' WHERE id = 1; UPDATE public.item SET address = 'a1' WHERE id = 2;
     UPDATE public.item SET address = 'a2' WHERE id = 1; COMMIT`,
  );
  await pair.target.session.query(`UPDATE understudy.lease SET epoch = epoch + 1`);
  pair.follower.gate.open();
  expect(await pair.ended).toMatchObject({ code: 'LEASE_LOST' });
  const [row] = await pair.target.session.query(
    `SELECT (SELECT address FROM public.item WHERE id = 1) AS address,
            (SELECT count(*) FROM understudy.relation WHERE state = 'stopped') AS stopped`,
  );
  expect(row).toEqual({ address: 'a1', stopped: '0' });
});

test.each<readonly [TestVersion, TestVersion]>([
  [14, 18],
  [18, 18],
])('lost connections on both sides change nothing, from %i to %i (pain 3)', async (...versions) => {
  await using pair = await followPair(versions, ITEM, { isStreamed: true });
  const { session } = pair.source;
  const { shadowId } = pair.shadow;
  for (let round = 0; round < 5; round++) {
    const from = 5_000 * round;
    await session.query(
      `BEGIN; ${fill(from, from + 4_999)}; SAVEPOINT s; UPDATE public.item SET n = -1; ROLLBACK TO s;
       UPDATE public.item SET n = n + 1 WHERE id % 3 = 0`,
    );
    if (round % 2 === 0) await endBackends(session, `understudy ${shadowId} receive`);
    if (round % 2 === 1) await endBackends(pair.target.session, `understudy ${shadowId} apply`);
    await session.query(`COMMIT`);
    await endBackends(session, `understudy ${shadowId} receive`);
    await session.query(`UPDATE public.item SET n = n + 1 WHERE id < 100`);
    await endBackends(pair.target.session, `understudy ${shadowId} apply`);
    await session.query(`DELETE FROM public.item WHERE id % 11 = ${round}`);
  }
  expect(await differences(pair, 'public.item')).toEqual([]);
});

test('a walsender that serves a lost connection of ours gives the slot back', async () => {
  await using pair = await followPair([18, 18], ITEM);
  const { session } = pair.source;
  const { shadowId, slotName, publicationName } = pair.shadow;
  await pair.caughtUp();
  const stale = async (): Promise<AsyncDisposable | undefined> => {
    await endBackends(session, `understudy ${shadowId} receive`);
    // Who is first has the slot; several of these against one of ours.
    const tries = Array.from({ length: 5 }, async () =>
      startReplication({
        endpoint: pair.source.endpoint,
        slot: slotName ?? '',
        publication: publicationName ?? '',
        startLsn: lsn(0n),
        binary: true,
        applicationName: `understudy ${shadowId} receive`,
      }).catch(() => undefined),
    );
    return (await Promise.all(tries)).find((one) => one !== undefined);
  };
  let held: AsyncDisposable | undefined;
  await until('the slot is taken', async () => {
    held = await stale();
    return held !== undefined;
  });
  await session.query(fill(1, 100));
  expect(await differences(pair, 'public.item')).toEqual([]);
  await held?.[Symbol.asyncDispose]();
});

/** A way to a server that can be cut, as when the process at this end is killed. */
async function openDetour(
  port: number,
): Promise<AsyncDisposable & { port: number; cut: () => void }> {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1');
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => undefined).pipe(other);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    cut,
    async [Symbol.asyncDispose]() {
      cut();
      server.close();
      await once(server, 'close');
    },
  };
}

test('a runner that is killed while the target waits for a lock leaves no backend behind', async () => {
  await using detours = new AsyncDisposableStack();
  const cuts: (() => void)[] = [];
  await using pair = await followPair([18, 18], ITEM, {
    prepare: async (_, { endpoint }) => {
      const detour = detours.use(await openDetour(endpoint.port));
      cuts.push(detour.cut);
      return { target: { ...endpoint, port: detour.port } };
    },
  });
  await pair.caughtUp();
  await using other = await openSession(pair.target.endpoint, {
    applicationName: 'understudy test',
  });
  await other.query('BEGIN; LOCK TABLE public.item');
  await pair.source.session.query(fill(1, 100));
  const backends = async (condition: string): Promise<string | null | undefined> => {
    // By another session: one in a transaction always sees the same activity.
    const [row] = await pair.target.session.query(
      `SELECT count(*) AS n FROM pg_stat_activity
        WHERE application_name = $1 AND datname = current_database() AND ${condition}`,
      [`understudy ${pair.shadow.shadowId} apply`],
    );
    return row?.['n'];
  };
  await until('it waits', async () => (await backends(`wait_event_type = 'Lock'`)) === '1');
  for (const cut of cuts) cut();
  await pair.stop();
  // It would keep the origin from the next runner, for as long as the lock is held.
  await until('it has ended', async () => (await backends('true')) === '0');
  await other.query('ROLLBACK');
  const [row] = await other.query('SELECT count(*) AS n FROM public.item');
  expect(row).toEqual({ n: '0' });
});

test('following ends soon, also while the target waits for a lock', async () => {
  await using pair = await followPair([18, 18], ITEM);
  const { shadowId } = pair.shadow;
  await pair.caughtUp();
  await using other = await openSession(pair.target.endpoint, {
    applicationName: 'understudy test',
  });
  await other.query('BEGIN; LOCK TABLE public.item');
  await pair.source.session.query(fill(1, 100));
  await until('the apply session waits', async () => {
    const [row] = await pair.target.session.query(
      `SELECT count(*) AS n FROM pg_stat_activity
        WHERE application_name = $1 AND wait_event_type = 'Lock' AND datname = current_database()`,
      [`understudy ${shadowId} apply`],
    );
    return row?.['n'] === '1';
  });
  const stopped = await Promise.race([pair.stop().then(() => 'stopped'), wait(10_000, 'too late')]);
  expect(stopped).toBe('stopped');
  await other.query('ROLLBACK');
  const [row] = await other.query('SELECT count(*) AS n FROM public.item');
  expect(row).toEqual({ n: '0' });
});

test.each(['IDENTIFY_SYSTEM', 'START_REPLICATION'])(
  'following ends soon, also while the source owes an answer to %s (pain 18)',
  async (command) => {
    await using proxies = new AsyncDisposableStack();
    let proxy: FaultProxy | undefined;
    await using pair = await followPair([18, 18], ITEM, {
      prepare: async (source) => {
        proxy = proxies.use(await startFaultProxy(source.endpoint));
        return { source: proxy.endpoint };
      },
    });
    await pair.caughtUp();
    const links = / receive$/;
    const sent = Promise.withResolvers<void>();
    proxy?.onText({ links, direction: 'toServer', text: command }, () => {
      proxy?.inject({ kind: 'blackhole', links });
      sent.resolve();
    });
    await endBackends(pair.source.session, `understudy ${pair.shadow.shadowId} receive`);
    await sent.promise;
    const end = await Promise.race([pair.stop().then(() => 'stopped'), wait(10_000, 'too late')]);
    expect(end).toBe('stopped');
  },
);

test('a publication that somebody alters ends following, nothing is skipped in silence', async () => {
  await using pair = await followPair(
    [14, 18],
    `${ITEM} CREATE TABLE public.other (id int PRIMARY KEY);`,
  );
  await pair.caughtUp();
  await pair.source.session.query(
    `ALTER PUBLICATION ${pair.shadow.publicationName} DROP TABLE public.other`,
  );
  expect(await pair.ended).toMatchObject({ code: 'PUBLICATION_CHANGED' });
});
