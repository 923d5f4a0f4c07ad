import type { Endpoint } from '#src/core/endpoint.ts';
import { noticeLostClient } from '#src/db/postgres/connection/lost-client.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';

/** A session on each side; inside a moment both are in a transaction that reads that moment. */
export type Pair = { readonly source: Session; readonly target: Session };

/**
 * What a comparison reads with. No parallel workers and no JIT: what production bears is the number of
 * sessions that was asked for. A cursor's plan is one that reads to the end.
 */
const READ_SETTINGS: Readonly<Record<string, string>> = {
  jit: 'off',
  max_parallel_workers_per_gather: '0',
  cursor_tuple_fraction: '1',
  work_mem: '32MB',
};

/** `count` pairs of sessions. */
export async function openPairs(
  ends: { readonly source: Endpoint; readonly target: Endpoint },
  count: number,
): Promise<AsyncDisposable & { readonly pairs: readonly Pair[] }> {
  await using opened = new AsyncDisposableStack();
  const open = async (endpoint: Endpoint) => {
    const applicationName = 'understudy verify';
    const session = opened.use(
      await openSession(endpoint, { applicationName, settings: READ_SETTINGS }),
    );
    await noticeLostClient(session);
    return session;
  };
  const pairs: Pair[] = [];
  for (let index = 0; index < count; index += 1) {
    pairs.push({ source: await open(ends.source), target: await open(ends.target) });
  }
  const owned = opened.move();
  return { pairs, [Symbol.asyncDispose]: async () => owned.disposeAsync() };
}
