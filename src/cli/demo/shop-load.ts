import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';

import { createRandom } from './random.ts';
import { SHOP_SIZE } from './shop-data.ts';
import { type Buyer, chooseTransaction } from './shop-transactions.ts';

/** What the shop has done so far. */
export type LoadCount = {
  transactions: number;
  rolledBack: number;
  /** Statements or connections that failed: the shadow must never cause one. */
  failed: number;
  /** Why the first one failed. */
  firstFailure: unknown;
};

export type ShopLoad = AsyncDisposable & { readonly count: Readonly<LoadCount> };

const CONNECTIONS = 4;
/** Steady rather than as fast as possible: the demo shows a busy production, not a benchmark. */
const TRANSACTIONS_PER_SECOND = 240;
const SEED = 20_260_401;

/** Keep a write load on the shop until disposed of. */
export async function startShopLoad(
  endpoint: Endpoint,
  deps: { readonly clock: Clock },
): Promise<ShopLoad> {
  const count: LoadCount = { transactions: 0, rolledBack: 0, failed: 0, firstFailure: undefined };
  const stop = new AbortController();
  const sessions = await Promise.all(
    Array.from({ length: CONNECTIONS }, () => openSession(endpoint, { applicationName: 'shop' })),
  );
  const workers = sessions.map((session, worker) =>
    work({ session, worker, count, clock: deps.clock, signal: stop.signal }),
  );
  return {
    count,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await Promise.allSettled(workers);
      await Promise.allSettled(sessions.map((session) => session[Symbol.asyncDispose]()));
    },
  };
}

async function work(deps: {
  session: Session;
  worker: number;
  count: LoadCount;
  clock: Clock;
  signal: AbortSignal;
}): Promise<void> {
  const { session, worker, count, clock, signal } = deps;
  const random = createRandom(SEED + worker);
  const buyer: Buyer = {
    session,
    random,
    pick: (bound) => Math.floor(random() * bound),
    worker,
    nextNumber: 0,
    ownOrders: [],
    size: SHOP_SIZE,
  };
  const intervalMs = (1000 * CONNECTIONS) / TRANSACTIONS_PER_SECOND;
  let dueMs = clock.now();
  while (!signal.aborted) {
    try {
      const outcome = await chooseTransaction(buyer);
      count[outcome === 'committed' ? 'transactions' : 'rolledBack'] += 1;
    } catch (error) {
      count.failed += 1;
      count.firstFailure ??= error;
      // A server that went away fails every statement; a few hundred failures a second tell no more.
      dueMs += 500;
    }
    dueMs += intervalMs;
    // What could not be done in time is not made up for: production does not come in bursts either.
    dueMs = Math.max(dueMs, clock.now() - intervalMs);
    await clock.sleep(Math.max(0, dueMs - clock.now()), signal).catch(() => undefined);
  }
}
