import type { Endpoint } from '#src/core/endpoint.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';

import { retryLostConnections, type RetryDeps } from './retry.ts';

/** Runs work on a session of the target that is opened again when it was lost. Work may run twice. */
export type LedgerSession = AsyncDisposable & {
  readonly run: <T>(work: (target: Session) => Promise<T>) => Promise<T>;
};

export function openLedger(
  deps: RetryDeps & { readonly target: Endpoint; readonly shadowId: string },
): LedgerSession {
  let session: Session | undefined;
  /** A session has one transaction at a time. */
  let turn: Promise<unknown> = Promise.resolve();
  const close = async (): Promise<void> => {
    const open = session;
    session = undefined;
    await open?.[Symbol.asyncDispose]();
  };
  return {
    run: async (work) => {
      const mine = turn.then(async () =>
        retryLostConnections(deps, async () => {
          session ??= await openSession(deps.target, {
            applicationName: `understudy ${deps.shadowId} copy`,
          });
          try {
            return await work(session);
          } catch (error) {
            await close();
            throw error;
          }
        }),
      );
      turn = mine.catch(() => undefined);
      return mine;
    },
    [Symbol.asyncDispose]: close,
  };
}
