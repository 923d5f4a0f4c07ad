import { describe, expect, test, vi } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { COMMAND_LOCK_CLASS, requestLockKey } from '#src/shadow/fence.ts';
import { followPair, type FollowedPair } from '#test/follower.ts';
import { casesOf } from '#test/full.ts';
import { until } from '#test/lane.ts';
import { verifyOptions } from '#test/verify.ts';

import { repairShadow } from './repair.ts';
import { verifyShadow, type VerifyOptions } from './verify.ts';

async function verify(pair: FollowedPair, options: Partial<VerifyOptions> = {}) {
  return verifyShadow(await verifyOptions(pair, options));
}

/**
 * Transfers that never stop, on a session of their own; the sum of all balances never changes. Rows that
 * tests tamper with are left alone: a change that meets one would stop its table.
 */
async function underLoad<T>(pair: FollowedPair, work: () => Promise<T>): Promise<T> {
  await using writer = await openSession(pair.source.endpoint, { applicationName: 'load' });
  const over = new AbortController();
  const load = (async () => {
    for (let turn = 1; !over.signal.aborted; turn += 1) {
      await writer.query(
        `BEGIN;
         UPDATE public.account SET balance = balance - ${turn} WHERE id = ${100 + ((turn * 7919) % 39_000)};
         UPDATE public.account SET balance = balance + ${turn} WHERE id = ${100 + ((turn * 104_729) % 39_000)};
         INSERT INTO public.history (account, note) VALUES (${turn}, repeat('n', ${turn % 50}));
         DELETE FROM public.history WHERE account = ${turn - 100};
         UPDATE public.tag SET n = n + 1 WHERE name = 't${turn % 300}';
         COMMIT`,
      );
    }
  })();
  try {
    return await work();
  } finally {
    over.abort();
    await load;
  }
}

const BANK = `
  CREATE TABLE public.account (id int PRIMARY KEY, balance numeric NOT NULL, email text UNIQUE);
  CREATE TABLE public.history (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, note text);
  CREATE TABLE public.tag (name text PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
  CREATE TABLE public.day (at date PRIMARY KEY);`;
const ROWS = `
  INSERT INTO public.account SELECT i, 0.00, 'a' || i FROM generate_series(1, 40000) i;
  INSERT INTO public.tag SELECT 't' || i, i FROM generate_series(0, 299) i;
  INSERT INTO public.day SELECT date '2026-01-01' + i FROM generate_series(0, 99) i;`;

describe.each(casesOf<readonly [14 | 18, 18]>([18, 18], [14, 18]))(
  'from %i to %i',
  (...versions) => {
    test('under a write load both sides are the same at each fence, and later runs read what changed (trap 25, complaint 8)', async () => {
      await using pair = await followPair(versions, BANK);
      await pair.source.session.query(ROWS);
      await underLoad(pair, async () => {
        const first = await verify(pair);
        expect(first).toMatchObject({ scope: 'full', differences: 0, unverified: [], caveats: [] });
        expect(first.lsn).toBeDefined();
        const second = await verify(pair);
        expect(second).toMatchObject({ scope: 'incremental', differences: 0, caveats: [] });
        expect(second.lsn! > first.lsn!).toBe(true);
      });
      // Everything that the load did is answered by one more run; then there is nothing to read.
      await pair.caughtUp();
      expect(await verify(pair)).toMatchObject({ differences: 0 });
      const idle = await verify(pair);
      expect(idle).toMatchObject({ scope: 'incremental', differences: 0, chunksRead: 0, rows: 0 });
      await pair.source.session.query('UPDATE public.account SET balance = 1 WHERE id = 7');
      const one = await verify(pair);
      expect(one).toMatchObject({ differences: 0, chunksRead: 1, rows: 32_767 });
      expect(one.chunks).toBeGreaterThan(3);
      expect(await verify(pair, { isFull: true })).toMatchObject({ scope: 'full', rows: 40_500 });
    });

    test('requests that were over a day ago are forgotten, later ones are not', async () => {
      await using pair = await followPair(versions, BANK);
      const { session } = pair.target;
      await session.query(
        `INSERT INTO understudy.request (shadow_id, kind, state, deadline, created_at)
         SELECT '${pair.shadow.shadowId}', 'fence', 'released', now(), now() - age
           FROM unnest(ARRAY[interval '2 days', interval '1 hour']) AS age`,
      );
      await verify(pair);
      await vi.waitFor(async () => {
        const rows = await session.query(
          `SELECT created_at < now() - interval '1 minute' AS is_old FROM understudy.request ORDER BY 1`,
        );
        expect(rows.map((row) => row['is_old'])).toEqual(['f', 't']);
      }, 10_000);
    });

    test('a table without a key is a multiset, read whole once anything in it changed (trap 23)', async () => {
      const ddl = `CREATE TABLE public.log (note text, n numeric);
      ALTER TABLE public.log REPLICA IDENTITY FULL;`;
      await using pair = await followPair(versions, ddl);
      const { session } = pair.source;
      await session.query(
        `INSERT INTO public.log SELECT 'zqrow', i % 10 FROM generate_series(1, 1000) i`,
      );
      expect(await verify(pair)).toMatchObject({ scope: 'full', differences: 0, rows: 1_000 });
      expect(await verify(pair)).toMatchObject({ scope: 'incremental', chunksRead: 0 });
      await session.query(
        `UPDATE public.log SET n = 1.0 WHERE ctid IN (SELECT max(ctid) FROM public.log)`,
      );
      expect(await verify(pair)).toMatchObject({ differences: 0, chunksRead: 1, rows: 1_000 });
      // Nothing changed in the stream: one row of many equal ones is missing, and one is there twice.
      await pair.target.session.query(`
      DELETE FROM public.log WHERE ctid IN (SELECT min(ctid) FROM public.log);
      INSERT INTO public.log VALUES ('zqrow', 7), ('zqrow', 1.0)`);
      const { found, rows, after } = await repairShadow(await verifyOptions(pair));
      expect([found.differences, rows, after.differences]).toEqual([3, 3, 0]);
      expect(found.listed.map(({ kind }) => kind).toSorted()).toEqual([
        'extra',
        'extra',
        'missing',
      ]);
      await session.query(
        `UPDATE public.log SET note = 'zqrow 2'; DELETE FROM public.log WHERE n = 3`,
      );
      expect(await verify(pair)).toMatchObject({ differences: 0, rows: 900 });
      expect(pair.events.filter(({ type }) => type === 'notice')).toEqual([]);
    });

    test('a tampered, a missing and an extra row are found and repaired under load (trap 26)', async () => {
      await using pair = await followPair(versions, BANK);
      await pair.source.session.query(ROWS);
      await pair.caughtUp();
      await pair.target.session.query(`
      UPDATE public.account SET balance = 0.0 WHERE id = 39999;
      DELETE FROM public.account WHERE id = 17;
      INSERT INTO public.account VALUES (900000, 1, 'nobody');
      UPDATE public.account SET email = 'x' WHERE id = 5; UPDATE public.account SET email = 'a5' WHERE id = 6;
      UPDATE public.account SET email = 'a6' WHERE id = 5;
      DELETE FROM public.day WHERE at < '2026-01-03'; INSERT INTO public.day VALUES ('2030-01-01');
      INSERT INTO public.history OVERRIDING SYSTEM VALUE VALUES (1000000, -5)`);
      await underLoad(pair, async () => {
        const repair = await repairShadow(await verifyOptions(pair));
        expect(repair.found.differences).toBe(9);
        expect(repair.rows).toBe(9);
        expect(repair.after).toMatchObject({ scope: 'incremental', differences: 0 });
        expect(repair.after.lsn! > repair.found.lsn!).toBe(true);
      });
      expect(await verify(pair, { isFull: true })).toMatchObject({ differences: 0 });
    });
  },
);

test('what others write on the target is found although the stream marks nothing, and mended (trap 24)', async () => {
  // Trap 24.
  await using pair = await followPair([16, 17], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  expect(await verify(pair)).toMatchObject({ scope: 'full', differences: 0 });
  await pair.target.session.query(`
    UPDATE public.tag SET n = -1 WHERE name = 't5';
    DELETE FROM public.account WHERE id BETWEEN 32768 AND 40000;
    INSERT INTO public.account VALUES (1000000, 1, 'nobody')`);
  const found = await verify(pair);
  expect(found).toMatchObject({ scope: 'incremental', differences: 7235 });
  expect(found.chunksRead).toBeLessThan(found.chunks);
  expect(found.listed).toContainEqual({
    kind: 'changed',
    table: { schema: 'public', name: 'tag' },
    key: { name: 't5' },
    columns: ['n', 'twice'],
  });
  const repair = await repairShadow(await verifyOptions(pair));
  expect([repair.rows, repair.after.differences]).toEqual([7235, 0]);
  expect(await verify(pair)).toMatchObject({ scope: 'incremental', chunksRead: 0, differences: 0 });
});

test('a truncated table is read whole again', async () => {
  await using pair = await followPair([15, 15], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  await verify(pair);
  await pair.source.session.query(
    `TRUNCATE public.account; INSERT INTO public.account VALUES (1, 1, 'a')`,
  );
  expect(await verify(pair)).toMatchObject({ differences: 0, rows: 1, chunksRead: 1 });
  expect(await verify(pair)).toMatchObject({ differences: 0, chunksRead: 0 });
});

test('a fence without a follower ends at its deadline, and the follower goes on after a lost command (trap 25, complaint 4)', async () => {
  await using pair = await followPair([18, 18], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  const { shadowId } = pair.shadow;
  const request = async (options: { seconds: number; isAlive: boolean }): Promise<string> => {
    await using command = await openSession(pair.target.endpoint, { applicationName: 'command' });
    const [row] = await command.query(
      `BEGIN;
       INSERT INTO understudy.request (shadow_id, kind, state, deadline)
       VALUES ('${shadowId}', 'fence', 'open', clock_timestamp() + interval '${options.seconds} s');
       SELECT pg_advisory_lock(${COMMAND_LOCK_CLASS}, ${requestLockKey('lastval()')});
       NOTIFY understudy_${shadowId};
       COMMIT;
       SELECT lastval() AS id`,
    );
    const deadline = AbortSignal.timeout(10_000);
    const stateOf = async () =>
      pair.target.session.query('SELECT state FROM understudy.request WHERE request_id = $1', [
        row?.['id'] ?? '',
      ]);
    while ((await stateOf())[0]?.['state'] === 'open') deadline.throwIfAborted();
    if (!options.isAlive) await command[Symbol.asyncDispose]();
    while ((await stateOf())[0]?.['state'] === 'held') deadline.throwIfAborted();
    return (await stateOf())[0]?.['state'] ?? '';
  };
  // One that hangs, and one that dies.
  expect(await request({ seconds: 1, isAlive: true })).toBe('expired');
  expect(await request({ seconds: 3_600, isAlive: false })).toBe('expired');
  expect(await verify(pair)).toMatchObject({ differences: 0 });
  await expect(
    verify(pair, { moment: { kind: 'fence', shadowId: 'ffffffff', timeoutMs: 300 } }),
  ).rejects.toMatchObject({ code: 'FENCE_TIMEOUT' });
});

test('a long write transaction on the source is named when the fence waits for it in vain (trap 25, complaint 5)', async () => {
  await using pair = await followPair([17, 18], BANK);
  const { shadowId } = pair.shadow;
  await using blocker = await openSession(pair.source.endpoint, { applicationName: 'batch job' });
  await blocker.query(`BEGIN; INSERT INTO public.day VALUES ('2026-01-01')`);
  await expect(
    verify(pair, { moment: { kind: 'fence', shadowId, timeoutMs: 1_500 } }),
  ).rejects.toMatchObject({
    code: 'SLOT_BLOCKED',
    message: expect.stringContaining(String(blocker.processId)),
  });
  await blocker.query('COMMIT');
  expect(await verify(pair)).toMatchObject({ differences: 0, rows: 1 });
});

test('a verification that dies has not been for nothing: the next one goes on (complaint 6)', async () => {
  await using pair = await followPair([18, 18], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  let tables = 0;
  const dying = {
    hit: (name: string): void => {
      if (name === 'verify.afterChunk' && (tables += 1) === 2) throw new Error('it died');
    },
  };
  await expect(verify(pair, { failpoints: dying, jobs: 1 })).rejects.toThrow('it died');
  const [known] = await pair.target.session.query(
    'SELECT count(DISTINCT source_oid) AS tables FROM understudy.chunk',
  );
  const next = await verify(pair);
  expect(next).toMatchObject({ scope: 'incremental', differences: 0 });
  // The two that were done, the largest first, are not read again.
  expect(Number(known?.['tables'])).toBeGreaterThanOrEqual(1);
  expect(next.rows).toBeLessThan(1_000);
});

test('rows that a policy hides from the role end a verification, they are not passed over (trap 5)', async () => {
  await using pair = await followPair([18, 18], BANK);
  const { session, name, endpoint } = pair.source;
  await session.query(ROWS);
  await pair.caughtUp();
  pair.source.dropRoleAfterwards(name);
  await session.query(
    `CREATE ROLE ${name} LOGIN REPLICATION PASSWORD 'password'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${name};
     ALTER TABLE public.day ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON public.day USING (false)`,
  );
  await expect(
    verify(pair, { source: { ...endpoint, user: name, password: 'password' } }),
  ).rejects.toMatchObject({ code: 'PRIVILEGE_MISSING' });
});

test('a repair is refused where no follower keeps its fence', async () => {
  await using pair = await followPair([18, 18], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  await pair.target.session.query('DELETE FROM public.tag');
  await expect(
    repairShadow(await verifyOptions(pair, { moment: { kind: 'now' } })),
  ).rejects.toMatchObject({ code: 'REPAIR_REFUSED' });
});

test('a table that has stopped is a difference, and follows again once it is repaired', async () => {
  await using pair = await followPair([14, 18], BANK);
  await pair.source.session.query(ROWS);
  await pair.caughtUp();
  // The source will use this number for another row.
  await pair.target.session.query('INSERT INTO public.history (account) VALUES (-5)');
  await underLoad(pair, async () => {
    const hasStopped = async (): Promise<boolean> => {
      const rows = await pair.target.session.query(
        `SELECT FROM understudy.relation WHERE state = 'stopped'`,
      );
      return rows.length > 0;
    };
    const deadline = AbortSignal.timeout(20_000);
    while (!(await hasStopped())) deadline.throwIfAborted();
    const repair = await repairShadow(await verifyOptions(pair));
    expect(repair.found.listed).toEqual([
      {
        kind: 'schema',
        table: { schema: 'public', name: 'history' },
        cause: 'has stopped following its source and was not compared',
      },
    ]);
    expect(repair.rows).toBeGreaterThan(0);
    expect(repair.after).toMatchObject({ differences: 0, tables: 4 });
  });
  await pair.caughtUp();
  expect(await verify(pair, { isFull: true })).toMatchObject({ differences: 0, tables: 4 });
});

test('a table that stops on the way to the fence is a difference, though nothing is marked (trap 19)', async () => {
  await using pair = await followPair([18, 18], BANK);
  await pair.source.session.query(`${ROWS} INSERT INTO public.history (account) VALUES (0)`);
  expect(await verify(pair)).toMatchObject({ differences: 0 });
  // The source will use this number for another row.
  await pair.target.session.query(
    'INSERT INTO public.history OVERRIDING SYSTEM VALUE VALUES (2, -5)',
  );
  await using writer = await openSession(pair.source.endpoint, { applicationName: 'batch job' });
  await writer.query(`BEGIN; INSERT INTO public.history (account) SELECT generate_series(2, 9)`);
  let committed: Promise<unknown> | undefined;
  // It commits when tables are chosen and the follower is held, but before the fence.
  const report: VerifyOptions['report'] = (event) => {
    if (event.type !== 'notice' || !event.message.startsWith('the fence waits')) return;
    committed ??= writer.query('COMMIT');
  };
  const verdict = await verify(pair, { report });
  await committed;
  expect(verdict).toMatchObject({ scope: 'incremental', differences: 1, tables: 3 });
  expect(verdict.listed).toEqual([
    {
      kind: 'schema',
      table: { schema: 'public', name: 'history' },
      cause: 'has stopped following its source and was not compared',
    },
  ]);
});

test('a comparison locks no sequence, so that production may restart one meanwhile (trap 27)', async () => {
  await using pair = await followPair([18, 18], BANK);
  const { session } = pair.source;
  await session.query(`INSERT INTO public.history (account) VALUES (1)`);
  await pair.target.session.query(`SELECT setval('public.history_id_seq', 1)`);
  await using other = await openSession(pair.target.endpoint, { applicationName: 'other' });
  // What is found cannot be recorded, so that the verification stays in its moment.
  await other.query('BEGIN; LOCK TABLE understudy.chunk IN SHARE ROW EXCLUSIVE MODE');
  const verifying = verify(pair, { sequences: [{ schema: 'public', name: 'history_id_seq' }] });
  const isWaiting = async (): Promise<boolean> => {
    const rows = await pair.target.session.query(
      `SELECT FROM pg_locks WHERE NOT granted AND relation = 'understudy.chunk'::regclass`,
    );
    return rows.length > 0;
  };
  await until(isWaiting, 'the verification waits');
  for (const side of [session, pair.target.session]) {
    const locks = await side.query(
      `SELECT mode FROM pg_locks WHERE relation = 'public.history_id_seq'::regclass`,
    );
    expect(locks).toEqual([]);
  }
  await session.query(
    `SET lock_timeout = '1s'; ALTER SEQUENCE public.history_id_seq RESTART; RESET lock_timeout`,
  );
  const pairs = await session.query(
    `SELECT FROM pg_stat_activity WHERE application_name = 'understudy verify' AND state = 'idle in transaction'
       AND datname = current_database()`,
  );
  expect(pairs).toHaveLength(2);
  await other.query('COMMIT');
  expect(await verifying).toMatchObject({ differences: 0 });
});
