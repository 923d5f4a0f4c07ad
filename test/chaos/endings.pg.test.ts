import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { createTestDatabase } from '#test/postgres.ts';

import { countTransactions, withClient } from './compare.ts';
import { CHAOS_SCHEMA } from './schema.ts';
import {
  type Clone,
  createShadow,
  endOf,
  errorOf,
  FOLLOWING,
  settle,
  type Shadow,
  until,
  verify,
} from './shadow.ts';
import { startWorkload } from './workload.ts';

/* The ways in which following ends other than by a crash: asked for, or because it cannot be right any more. */

async function createPair(versions: readonly [14 | 15 | 16 | 17 | 18, 14 | 15 | 16 | 17 | 18]) {
  await using stack = new AsyncDisposableStack();
  const source = stack.use(await createTestDatabase(versions[0], CHAOS_SCHEMA));
  const target = stack.use(await createTestDatabase(versions[1]));
  const shadow = stack.use(await createShadow(source.endpoint, target.endpoint));
  const owned = stack.move();
  return { shadow, source: source.session, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function query(shadow: Shadow, side: 'source' | 'target', sql: string) {
  return withClient(shadow[side], async (client) => (await client.query(sql)).rows);
}

async function nameOf(shadow: Shadow): Promise<string> {
  const [row] = await query(shadow, 'target', 'SELECT slot_name FROM understudy.shadow');
  return row.slot_name;
}

async function endingOf(clone: Clone): Promise<string> {
  const ended = await endOf(clone);
  return `${ended.code} ${errorOf(ended)}`;
}

test(
  'an interrupt, a position and a second runner: each ends in order, and the next run resumes (trap 20, complaint 10)',
  { timeout: 120_000 },
  async () => {
    await using pair = await createPair([15, 15]);
    const { shadow } = pair;
    await using workload = await startWorkload(shadow.source, 3);
    {
      await using first = shadow.start();
      await first.waitFor(FOLLOWING);
      // Trap 20: one runner a shadow.
      await using second = shadow.start();
      expect(await endingOf(second)).toBe('1 LEASE_HELD');
      first.kill('SIGINT');
      expect(await endingOf(first)).toBe('130 undefined');
    }
    // Everything that committed before a position, and nothing after it.
    await workload.stop();
    const [{ lsn }] = await query(shadow, 'source', 'SELECT pg_current_wal_insert_lsn() AS lsn');
    const then = await countTransactions(shadow.source);
    await query(shadow, 'source', 'UPDATE app.total SET transactions = transactions + 1000');
    await using third = shadow.start({ more: ['--until-lsn', lsn] });
    expect(await endingOf(third)).toBe('0 undefined');
    expect(await countTransactions(shadow.target)).toBe(then);
    await query(shadow, 'source', 'UPDATE app.total SET transactions = transactions - 1000');
    await using fourth = shadow.start();
    expect(await settle(shadow, fourth)).toEqual([]);
    expect(await verify(shadow)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test(
  'a runner that slept through a takeover changes nothing when it wakes (trap 20)',
  { timeout: 120_000 },
  async () => {
    // Trap 20. It sleeps with connections open, so that only the epoch can tell.
    await using pair = await createPair([14, 17]);
    const { shadow } = pair;
    await using workload = await startWorkload(shadow.source, 4);
    await using sleeper = shadow.start();
    await sleeper.waitFor(FOLLOWING);
    sleeper.kill('SIGSTOP');
    const end = async (): Promise<void> => {
      // Its control session, as a firewall would end it, and what keeps slot and origin from the next one.
      const sql = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name ~ '(control|receive|apply)$'`;
      await query(shadow, 'target', sql);
      await query(shadow, 'source', sql);
    };
    await end();
    // The spool is its own machine's; here both share one, and the folder knows its holder.
    const spool = join(shadow.spool, (await nameOf(shadow)).slice(-8));
    await rm(join(spool, 'lock'));
    await using runner = shadow.start();
    await runner.waitFor(FOLLOWING);
    sleeper.kill('SIGCONT');
    expect(await endingOf(sleeper)).toMatch(/^1 LEASE_(LOST|HELD)$/);
    await workload.stop();
    expect(await settle(shadow, runner)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test(
  'what cannot be right any more ends with its code, and production goes on (traps 14 and 15, pains 4 and 5)',
  { timeout: 180_000 },
  async () => {
    const cases: readonly (readonly [
      string,
      (shadow: Shadow, name: string) => Promise<unknown>,
    ])[] = [
      [
        'SLOT_LOST',
        async (shadow, name) => {
          await dropSlot(shadow, name);
        },
      ],
      [
        // Trap 15: made again under its name, it would go on behind a gap without a word.
        'SLOT_AHEAD',
        async (shadow, name) => {
          await dropSlot(shadow, name);
          const make = `SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`;
          await query(shadow, 'source', make);
        },
      ],
      [
        // Trap 14: 18 only warns, and skips the changes of the gap.
        'PUBLICATION_CHANGED',
        async (shadow, name) => {
          await query(shadow, 'source', `DROP PUBLICATION ${name}`);
        },
      ],
      [
        'PUBLICATION_CHANGED',
        async (shadow, name) => {
          await query(shadow, 'source', `DROP PUBLICATION ${name}`);
          await query(shadow, 'source', `CREATE PUBLICATION ${name} FOR ALL TABLES`);
        },
      ],
    ];
    const outcomes = await Promise.all(
      cases.map(async ([, harm]) => {
        // Two servers: a transaction of the sleeper's on the source's would block the slot that is made there.
        await using pair = await createPair([17, 18]);
        const { shadow } = pair;
        await using workload = await startWorkload(shadow.source, 5);
        await using clone = shadow.start();
        await clone.waitFor(FOLLOWING);
        // Asleep, so that it finds everything done.
        clone.kill('SIGSTOP');
        await harm(shadow, await nameOf(shadow));
        clone.kill('SIGCONT');
        const first = await endingOf(clone);
        // Another run does not go over it either.
        await using again = shadow.start();
        const second = await endingOf(again);
        await workload.stop();
        return [first, second, ...workload.failed, (await shadow.run(['drop'])).code];
      }),
    );
    expect(outcomes).toEqual(cases.map(([code]) => [`1 ${code}`, `1 ${code}`, 0]));
  },
);

test(
  'a disk that is full and a spool that is gone: nothing is skipped (traps 15 and 16)',
  { timeout: 180_000 },
  async () => {
    await using pair = await createPair([16, 16]);
    const { shadow } = pair;
    await using workload = await startWorkload(shadow.source, 6);
    {
      // No file of this process may grow past 100 KB.
      await using cramped = shadow.start({ limit: 'ulimit -f 200' });
      expect(await endingOf(cramped)).toBe('1 SPOOL_FULL');
    }
    const spool = join(shadow.spool, (await nameOf(shadow)).slice(-8));
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      // The applier stands, what comes is confirmed, and then the only copy of it is deleted.
      await withClient(shadow.target, async (client) => {
        await client.query('BEGIN; LOCK TABLE app.total IN ACCESS EXCLUSIVE MODE');
        const slot = await nameOf(shadow);
        const lsnOf = async (side: 'source' | 'target', sql: string): Promise<bigint> => {
          const [row] = await query(shadow, side, `SELECT ${sql} - '0/0'::pg_lsn AS bytes`);
          return BigInt(row.bytes);
        };
        // Both as they are now: the ledger's positions are up to a second old, in which much is applied.
        await until('more is confirmed than applied', async () => {
          const applied = await lsnOf('target', '(SELECT applied_lsn FROM understudy.progress)');
          const confirmed = await lsnOf(
            'source',
            `(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '${slot}')`,
          );
          return confirmed > applied + 50_000n;
        });
        clone.kill('SIGKILL');
        await clone.ended;
        // Its backend waits for our lock and must not commit what it was sent once we let go.
        await client.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'understudy % apply' AND datname = current_database()`,
        );
        await rename(spool, `${spool}.away`);
      });
      await using again = shadow.start();
      expect(await endingOf(again)).toBe('1 SPOOL_MISSING');
    }
    // Found again, all is well.
    await rename(`${spool}.away`, spool);
    await using last = shadow.start();
    await last.waitFor(FOLLOWING);
    await workload.stop();
    expect(await settle(shadow, last)).toEqual([]);
    expect(workload.failed).toEqual([]);
  },
);

test(
  'a budget of WAL that is used up frees the source (trap 8, pain 19, complaint 15)',
  { timeout: 120_000 },
  async () => {
    // Trap 8: production ranks above the shadow.
    await using pair = await createPair([15, 16]);
    const { shadow } = pair;
    await using clone = shadow.start({ more: ['--max-source-wal', '64MB'] });
    await clone.waitFor(FOLLOWING);
    const name = await nameOf(shadow);
    await withClient(shadow.source, async (client) => {
      await client.query('BEGIN; UPDATE app.total SET transactions = transactions');
      for (let i = 0; i < 6; i += 1) {
        await query(
          shadow,
          'source',
          `SELECT pg_logical_emit_message(false, 'x', ''), pg_switch_wal()`,
        );
      }
      expect(await endingOf(clone)).toBe('1 WAL_BUDGET_EXCEEDED');
    });
    const slots = `SELECT FROM pg_replication_slots WHERE slot_name = '${name}'`;
    expect(await query(shadow, 'source', slots)).toEqual([]);
    const status = await shadow.status();
    expect(status.stdout).toContain('WAL_BUDGET_EXCEEDED');
    await using again = shadow.start();
    expect(await endingOf(again)).toBe('1 SLOT_LOST');
  },
);

/** Drop a slot whose reader sleeps. */
async function dropSlot(shadow: Shadow, name: string): Promise<void> {
  await query(
    shadow,
    'source',
    `DO $$ BEGIN LOOP
       PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${name}' AND active;
       BEGIN PERFORM pg_drop_replication_slot('${name}'); EXIT; EXCEPTION WHEN object_in_use THEN NULL; END;
     END LOOP; END $$`,
  );
}
