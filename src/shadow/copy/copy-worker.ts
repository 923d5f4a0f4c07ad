import { setTimeout as wait } from 'node:timers/promises';

import type { Endpoint } from '#src/core/endpoint.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';

import type { Counts } from './copy-ledger.ts';
import { type CopyPair, copyPart, type PartJob } from './copy-part.ts';
import type { PartProgress } from './copy-progress.ts';
import { retryLostConnections, type RetryDeps } from './retry.ts';

const CANCEL_MS_MAX = 1000;
/** transaction_timeout exists from 17 on; a role's own would end a long part. */
const TRANSACTION_TIMEOUT_MAJOR = 17;

export type WorkerDeps = RetryDeps & {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly shadowId: string;
};

/** Copies one part at a time over connections that it keeps. */
export type CopyWorker = AsyncDisposable & {
  /** As copyPart, repeated when a connection is lost. Throws `signal.reason` soon after an abort. */
  readonly copy: (
    job: Omit<PartJob, 'advance'>,
    startProgress: () => PartProgress,
  ) => Promise<Counts>;
};

export function createCopyWorker(deps: WorkerDeps): CopyWorker {
  let pair: CopyPair | undefined;
  const attempt = async (
    job: Omit<PartJob, 'advance'>,
    progress: PartProgress,
  ): Promise<Counts> => {
    const current = (pair ??= await openPair(deps));
    const abort = (): void => destroyPair(current);
    deps.signal.addEventListener('abort', abort, { once: true });
    // It may have happened while the pair was opened.
    if (deps.signal.aborted) abort();
    try {
      const counts = await copyPart(current, { ...job, advance: progress.advance });
      progress.commit(counts.rows, counts.bytes);
      return counts;
    } catch (error) {
      progress.discard();
      pair = undefined;
      destroyPair(current);
      // A server that waits for a lock or sorts does not see that its client has gone.
      await cancelPair(current);
      throw error;
    } finally {
      deps.signal.removeEventListener('abort', abort);
    }
  };
  return {
    copy: async (job, startProgress) =>
      retryLostConnections(deps, async () => attempt(job, startProgress())),
    async [Symbol.asyncDispose]() {
      if (pair === undefined) return;
      await Promise.all([pair.source, pair.target].map(async (end) => end[Symbol.asyncDispose]()));
    },
  };
}

async function openPair(deps: WorkerDeps): Promise<CopyPair> {
  const source = await openEnd(deps, deps.source, '');
  try {
    // Triggers and foreign keys are bypassed. Commits are synchronous: this process goes on after a crash
    // of the target, and does not copy again what it was told is stored.
    const settings = 'SET session_replication_role = replica;';
    return { source, target: await openEnd(deps, deps.target, settings) };
  } catch (error) {
    source.destroy();
    throw error;
  }
}

async function openEnd(
  deps: WorkerDeps,
  endpoint: Endpoint,
  settings: string,
): Promise<WireConnection> {
  const applicationName = `understudy ${deps.shadowId} copy`;
  const end = await openWireConnection(endpoint, { applicationName });
  const hasTimeout = end.serverMajor >= TRANSACTION_TIMEOUT_MAJOR;
  const sql = `${settings}${hasTimeout ? 'SET transaction_timeout = 0;' : ''}`;
  try {
    if (sql !== '') await end.query(sql);
    return end;
  } catch (error) {
    end.destroy();
    throw error;
  }
}

function destroyPair(pair: CopyPair): void {
  pair.source.destroy();
  pair.target.destroy();
}

async function cancelPair(pair: CopyPair): Promise<void> {
  const cancels = [pair.source, pair.target].map(async (end) => end.cancel());
  await Promise.race([Promise.allSettled(cancels), wait(CANCEL_MS_MAX, undefined, { ref: false })]);
}
