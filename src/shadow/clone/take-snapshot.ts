import { randomBytes } from 'node:crypto';

import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createLogicalSlot, type LogicalSlot } from '#src/db/postgres/replication/create-slot.ts';
import { describeBlocker } from '#src/db/postgres/replication/slot-blocker.ts';
import { readLsn } from '#src/db/postgres/replication/slot.ts';
import type { TakenSnapshot } from '#src/shadow/copy/generations.ts';

/** How long a slot waits for older write transactions of the source (trap 3). */
const SLOT_DEADLINE_MS = 10 * 60_000;
const NOTICE_EVERY_MS = 10_000;

/**
 * A slot of the source, with the snapshot of its consistent point. What it waits for is reported.
 *
 * Throws what createLogicalSlot throws; SLOT_BLOCKED names who is in the way.
 */
export async function takeSlot(options: {
  readonly source: Endpoint;
  readonly shadowId: string;
  readonly name: string;
  readonly temporary: boolean;
  readonly signal: AbortSignal;
  readonly report: Report;
}): Promise<LogicalSlot> {
  const { source, shadowId, name, temporary, signal, report } = options;
  let noticedMs = 0;
  return createLogicalSlot({
    endpoint: source,
    name,
    temporary,
    applicationName: `understudy ${shadowId} slot`,
    deadlineMs: SLOT_DEADLINE_MS,
    signal,
    onBlocked: (blocker) => {
      if (performance.now() - noticedMs < NOTICE_EVERY_MS && noticedMs > 0) return;
      noticedMs = performance.now();
      report({
        type: 'notice',
        level: 'warn',
        message: `the slot waits for an older transaction: ${describeBlocker(blocker)}`,
      });
    },
  });
}

/** For tables that start again while changes are followed: a snapshot with a position (traps 1, 2). */
export async function takeSlotSnapshot(
  options: Omit<Parameters<typeof takeSlot>[0], 'name' | 'temporary'>,
): Promise<TakenSnapshot> {
  const name = `understudy_${options.shadowId}_${randomBytes(4).toString('hex')}`;
  const slot = await takeSlot({ ...options, name, temporary: true });
  return {
    snapshotName: slot.snapshotName,
    lsn: slot.consistentLsn,
    release: async () => slot[Symbol.asyncDispose](),
  };
}

/** Without following no position is needed: any transaction's snapshot will do. Held until released. */
export async function takePlainSnapshot(
  source: Endpoint,
  shadowId: string,
): Promise<TakenSnapshot> {
  const session = await openSession(source, { applicationName: `understudy ${shadowId} snapshot` });
  await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  const [row] = await session.query(
    'SELECT pg_catalog.pg_export_snapshot() AS snapshot, pg_catalog.pg_current_wal_lsn() AS lsn',
  );
  return {
    snapshotName: row?.['snapshot'] ?? '',
    lsn: readLsn(row?.['lsn'], 'pg_current_wal_lsn'),
    release: async () => session[Symbol.asyncDispose](),
  };
}
