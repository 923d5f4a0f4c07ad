import type { Endpoint } from '#src/core/endpoint.ts';
import { noticeLostClient } from '#src/db/postgres/connection/lost-client.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import type { Clock } from '#src/lib/clock.ts';

/** What is under way when following ends has so long to end by itself, and again to be cancelled. */
const GRACE_MS = 1_000;

const APPLY_SETTINGS = {
  // Progress is in the same transaction, so a lost tail of commits is applied again, as the native worker does.
  synchronous_commit: 'off',
  default_transaction_isolation: 'read committed',
  // The plan of a set statement must not depend on the size of its first batch.
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
};

/**
 * A connection to the target that applies changes, with neither triggers nor foreign keys. A statement on
 * the target may wait for a lock, or for ever behind a dead network. Nobody waits for it once following
 * ends: its transaction is rolled back.
 */
export async function openApplyConnection(
  deps: {
    readonly target: Endpoint;
    readonly shadow: { readonly shadowId: string };
    readonly clock: Clock;
  },
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly connection: WireConnection }> {
  await using owned = new AsyncDisposableStack();
  const connection = owned.use(
    await openWireConnection(deps.target, {
      applicationName: `understudy ${deps.shadow.shadowId} apply`,
      settings: APPLY_SETTINGS,
    }),
  );
  owned.use(cancelOnAbort(connection, deps.clock, signal));
  // By SET and not at startup, where a grant of the parameter does not count yet.
  await connection.query('SET session_replication_role = replica');
  await noticeLostClient(connection);
  const resources = owned.move();
  return { connection, [Symbol.asyncDispose]: async () => resources.disposeAsync() };
}

function cancelOnAbort(connection: WireConnection, clock: Clock, signal: AbortSignal): Disposable {
  const over = new AbortController();
  const end = async (): Promise<void> => {
    await clock.sleep(GRACE_MS, over.signal);
    connection.cancel().catch(() => undefined);
    await clock.sleep(GRACE_MS, over.signal);
    connection.destroy();
  };
  const onAbort = (): void => void end().catch(() => undefined);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  return {
    [Symbol.dispose]: () => {
      signal.removeEventListener('abort', onAbort);
      over.abort();
    },
  };
}
