import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { extname } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';

import type { KeeperAnswer, KeeperOrder } from './keeper.ts';

/** A snapshot that stays importable as long as this lives, and for a grace after this process dies. */
export type SnapshotHold = {
  /** For SET TRANSACTION SNAPSHOT; any of them. */
  readonly exported: readonly string[];
  /** The server processes behind them. */
  readonly backendPids: readonly number[];
  /** pg_current_snapshot() of everyone who is on it: every reader compares it with its own. */
  readonly snapshot: string;
  /** Give the snapshot up now. */
  readonly end: () => Promise<void>;
  /** Leave it to a later run: the keeper ends when the grace is over. */
  readonly leave: () => void;
  /** Resolves with SNAPSHOT_LOST when the keeper ends without being told. */
  readonly lost: Promise<OperatorError>;
};

export type HoldOptions = {
  readonly source: Endpoint;
  readonly shadowId: string;
  /** How long the snapshot outlives this process. Production cannot vacuum past it meanwhile. */
  readonly graceMs?: number;
};

/** Two, so that the loss of one connection is not the loss of the snapshot. */
const TRANSACTIONS = 2;
const GRACE_MS = 10 * 60_000;
const END_DEADLINE_MS = 5_000;
/** A keeper does nothing; what it may use is what Node needs to start. */
const NODE_FLAGS = ['--max-old-space-size=32', '--max-semi-space-size=1', '--v8-pool-size=0'];

/** The name under which pg_stat_activity shows a shadow's keepers. */
export function keeperApplicationName(shadowId: string): string {
  return `understudy ${shadowId} keeper`;
}

/** End every keeper of a shadow, whoever started it; the number of connections that were ended. */
export async function endAllKeepers(source: Session, shadowId: string): Promise<number> {
  const ended = await source.query(
    `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
      WHERE application_name = $1 AND datname = current_database()`,
    [keeperApplicationName(shadowId)],
  );
  return ended.length;
}

/**
 * Hold a snapshot that someone else still exports (such as the connection that created the slot).
 *
 * Throws SNAPSHOT_LOST when it is gone already, else as openSession.
 */
export async function holdSnapshot(
  options: HoldOptions & { readonly snapshotName: string },
): Promise<SnapshotHold> {
  const hold = await startKeeper(options, { exported: [options.snapshotName] });
  if (hold === undefined) {
    throw new OperatorError('SNAPSHOT_LOST', `snapshot ${options.snapshotName} is gone`);
  }
  return hold;
}

/** Hold the snapshot that an earlier run's keepers export; undefined when none of them lives. */
export async function adoptSnapshot(
  options: HoldOptions & { readonly exported: readonly string[]; readonly snapshot: string },
): Promise<SnapshotHold | undefined> {
  return startKeeper(options, options);
}

async function startKeeper(
  options: HoldOptions,
  wanted: { readonly exported: readonly string[]; readonly snapshot?: string },
): Promise<SnapshotHold | undefined> {
  // Packed, the files are .js.
  const entry = new URL(`./keeper${extname(import.meta.url)}`, import.meta.url);
  const child = spawn(process.execPath, [...NODE_FLAGS, fileURLToPath(entry)], {
    // Its own session: neither Ctrl-C nor the death of this process ends it.
    detached: true,
    stdio: ['pipe', 'pipe', 'ignore'],
    env: {},
  });
  const exited = once(child, 'exit');
  child.stdin.on('error', () => undefined);
  const order: KeeperOrder = {
    endpoint: options.source,
    applicationName: keeperApplicationName(options.shadowId),
    exported: wanted.exported,
    snapshot: wanted.snapshot,
    transactions: TRANSACTIONS,
    graceMs: options.graceMs ?? GRACE_MS,
  };
  child.stdin.write(`${JSON.stringify(order)}\n`);
  const answer = await readAnswer(child);
  if (answer === undefined || answer.kind === 'failed') {
    const where = describeEndpoint(options.source);
    throw new OperatorError(
      answer?.code ?? 'SNAPSHOT_LOST',
      answer?.message ?? `the keeper of the snapshot on ${where} ended at its start`,
    );
  }
  if (answer.kind === 'gone') return undefined;
  // The keeper must not keep this process alive.
  child.unref();
  for (const pipe of [child.stdin, child.stdout]) if (pipe instanceof Socket) pipe.unref();
  return {
    exported: answer.exported,
    backendPids: answer.backendPids,
    snapshot: answer.snapshot,
    lost: exited.then(() => new OperatorError('SNAPSHOT_LOST', 'the keeper of the snapshot ended')),
    leave: () => void child.stdin.end(),
    end: async () => {
      child.stdin.end('end\n');
      const timer = setTimeout(() => child.kill('SIGKILL'), END_DEADLINE_MS);
      child.ref();
      await exited;
      clearTimeout(timer);
    },
  };
}

async function readAnswer(child: ChildProcess): Promise<KeeperAnswer | undefined> {
  if (child.stdout === null) return undefined;
  for await (const line of createInterface({ input: child.stdout })) {
    const answer: KeeperAnswer = JSON.parse(line);
    return answer;
  }
  return undefined;
}
