import { expect, test } from 'vitest';

import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { followPair } from '#test/follower.ts';

import { dropShadows } from './drop.ts';

test('a drop does not touch a shadow whose spool a living process uses, whoever holds the lease (trap 20)', async () => {
  await using pair = await followPair([18, 18], 'CREATE TABLE public.t (id int PRIMARY KEY)');
  const { source, target, shadow } = pair;
  await pair.caughtUp();
  // The runner's lease is lost, and it has not noticed.
  await target.session.query(
    `SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
      WHERE locktype = 'advisory' AND objsubid = 2 AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  );
  let nowMs = 0;
  const drop = async (): Promise<unknown> =>
    dropShadows({
      source: source.endpoint,
      target: target.endpoint,
      clock: {
        ...systemClock,
        now: () => nowMs,
        sleep: async (ms) => void (nowMs += ms),
      },
      failpoints: createFailpoints(undefined),
      signal: new AbortController().signal,
    });
  await expect(drop()).rejects.toMatchObject({
    code: 'LEASE_HELD',
    message: expect.stringContaining(shadow.spoolDirectory ?? ''),
  });
  const slots = `SELECT active FROM pg_replication_slots WHERE slot_name = '${shadow.slotName}'`;
  expect(await source.session.query(slots)).toEqual([{ active: 't' }]);
});
