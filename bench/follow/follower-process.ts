/**
 * The follower in a process of its own, as in production: nothing is warm from the run before, and its
 * CPU and memory are nobody else's. Takes `Order`s, gives `Answer`s.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lsn } from '#src/core/lsn.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createLogger } from '#src/lib/log.ts';
import { supervise } from '#src/lib/supervise.ts';
import { openFollower } from '#src/shadow/follow/follow.ts';
import { recordFollowedShadow } from '#test/followed-shadow.ts';

import type { Answer, Order } from './messages.ts';

try {
  await run();
} catch (error) {
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  await answer({ kind: 'failed', message });
  process.exitCode = 1;
}
process.disconnect();

async function run(): Promise<void> {
  await using owned = new AsyncDisposableStack();
  const order = await nextOrder();
  if (order.kind !== 'prepare') throw new Error(`unexpected order ${order.kind}`);
  const spoolDirectory = await mkdtemp(join(tmpdir(), 'bench-spool-'));
  owned.defer(async () => rm(spoolDirectory, { recursive: true, force: true }));
  const applicationName = 'understudy bench';
  const source = owned.use(await openSession(order.source, { applicationName }));
  const target = owned.use(await openSession(order.target, { applicationName }));
  const { shadow, epoch } = await recordFollowedShadow({
    source,
    target,
    shadowId: order.slot.slice(-8),
    tables: await readTables(source, EVERYTHING),
    publication: order.publication,
    slot: { name: order.slot, consistentLsn: lsn(BigInt(order.consistentLsn)) },
    spoolDirectory,
  });
  owned.defer(async () => {
    if (shadow.originName === undefined) return;
    await target.query('SELECT pg_replication_origin_drop($1)', [shadow.originName]);
  });
  await answer({ kind: 'ready' });
  await nextOrder();

  const before = process.cpuUsage();
  await using follower = await openFollower({
    source: order.source,
    target: order.target,
    shadow,
    epoch,
    spoolDirectory,
    clock: systemClock,
    log: createLogger('warn'),
    report: () => undefined,
    failpoints: createFailpoints(undefined),
    jobs: 1,
    onFence: async () => undefined,
  });
  const stop = new AbortController();
  const stopping = nextOrder().then(() => stop.abort());
  const following = supervise(
    [follower.spooling, follower.applying, follower.serving],
    stop.signal,
  ).catch((error: unknown) => {
    if (!stop.signal.aborted) throw error;
  });
  await Promise.race([stopping, following]);
  const { user, system } = process.cpuUsage(before);
  const peakMb = process.resourceUsage().maxRSS / 1024;
  await following;
  await answer({ kind: 'stopped', cpuSeconds: (user + system) / 1e6, peakMb });
}

async function nextOrder(): Promise<Order> {
  const [order] = await once(process, 'message');
  return order;
}

async function answer(message: Answer): Promise<void> {
  await new Promise<void>((resolve) => process.send?.(message, () => resolve()));
}
