import { expect, test, vi } from 'vitest';

import { readStatus } from '#src/shadow/status.ts';
import { followPair } from '#test/follower.ts';

import { sendHeartbeat } from './heartbeat.ts';

const DEADLINE = { timeout: 30_000, interval: 50 };

test('a shadow beyond its tolerance is late once, says so, and is in time again once', async () => {
  await using pair = await followPair([18, 18], 'CREATE TABLE public.a (id int PRIMARY KEY)', {
    maxLagMs: 30_000,
  });
  const { source, target, shadow, events } = pair;
  const told = () =>
    events.flatMap((event) =>
      event.type === 'late' || event.type === 'inTime' ? [event.type] : [],
    );
  const status = async () => (await readStatus(target.session))[0];
  await pair.caughtUp();
  pair.follower.gate.open();
  await vi.waitFor(() => expect(events.some(({ type }) => type === 'lag')).toBe(true), DEADLINE);
  expect(told()).toEqual([]);
  expect(await status()).toMatchObject({ maxLagMs: 30_000, isLate: false });

  // As if applying had taken so long: every second, so that no newer one comes between for long.
  const late = setInterval(() => {
    void sendHeartbeat(source.session, shadow.shadowId, Date.now() - 60_000);
  }, 300);
  await vi
    .waitFor(() => expect(told()).toEqual(['late']), DEADLINE)
    .finally(() => {
      clearInterval(late);
    });
  await vi.waitFor(async () => expect(told()).toEqual(['late', 'inTime']), DEADLINE);
  expect(await status()).toMatchObject({ isLate: false });
  expect(events).toContainEqual({
    type: 'late',
    lagMs: expect.any(Number),
    maxLagMs: 30_000,
  });

  // Nobody measures any more: the lag grows by itself.
  await pair.stop();
  await target.session.query(
    `UPDATE understudy.position SET updated_at = now() - interval '31 seconds'`,
  );
  expect(await status()).toMatchObject({ isLate: true });
});
