import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

import { readSnapshots, type RecordedSnapshot, recordSnapshot } from './copy-ledger.ts';
import {
  adoptSnapshot,
  holdSnapshot,
  keeperApplicationName,
  type SnapshotHold,
} from './hold-snapshot.ts';

/** A snapshot that its maker still exports, such as the connection that created a slot. */
export type TakenSnapshot = {
  readonly snapshotName: string;
  /** Changes that commit from here on are not in the snapshot, earlier ones are. */
  readonly lsn: Lsn;
  /** Called once keepers hold the snapshot. */
  readonly release: () => Promise<void>;
};

/** A generation of the ledger whose snapshot this process holds. */
export type HeldSnapshot = SnapshotHold & { readonly generation: number; readonly lsn: Lsn };

export type GenerationOptions = {
  readonly source: Endpoint;
  /** For the ledger. */
  readonly target: Session;
  readonly shadowId: string;
  readonly graceMs?: number;
  readonly failpoints: Failpoints;
};

/**
 * Hand a snapshot to keepers, record it as the next generation, then release its maker.
 *
 * Throws SNAPSHOT_LOST when its maker exports it no more.
 */
export async function holdGeneration(
  options: GenerationOptions,
  taken: TakenSnapshot,
): Promise<HeldSnapshot> {
  const hold = await holdSnapshot({ ...options, snapshotName: taken.snapshotName });
  try {
    const recorded = await readSnapshots(options.target, options.shadowId);
    const generation = Math.max(0, ...recorded.map((one) => one.generation)) + 1;
    const held = { ...hold, generation, lsn: taken.lsn };
    options.failpoints.hit('copy.beforeHold');
    await recordSnapshot(options.target, options.shadowId, held);
    options.failpoints.hit('copy.afterHold');
    await taken.release();
    return held;
  } catch (error) {
    await hold.end();
    throw error;
  }
}

/** Take over what an earlier run's keepers hold; undefined when they are gone (trap 1). */
export async function adoptGeneration(
  options: GenerationOptions,
  recorded: RecordedSnapshot,
): Promise<HeldSnapshot | undefined> {
  if (recorded.exported.length === 0) return undefined;
  const hold = await adoptSnapshot({
    ...options,
    exported: recorded.exported,
    snapshot: recorded.snapshot,
  });
  if (hold === undefined) return undefined;
  try {
    const held = { ...hold, generation: recorded.generation, lsn: recorded.lsn };
    options.failpoints.hit('copy.beforeAdopt');
    await recordSnapshot(options.target, options.shadowId, held);
    options.failpoints.hit('copy.afterAdopt');
    // Only now: until the new ids are on record, the old keepers are what a crash falls back to.
    await endKeepers(options, recorded.backendPids);
    return held;
  } catch (error) {
    await hold.end();
    throw error;
  }
}

/** Production can vacuum again; the ids are void. */
export async function endGeneration(
  options: GenerationOptions,
  recorded: RecordedSnapshot,
): Promise<void> {
  await recordSnapshot(options.target, options.shadowId, {
    ...recorded,
    exported: [],
    backendPids: [],
  });
  await endKeepers(options, recorded.backendPids);
}

/** Give up every snapshot that is on record: for a shadow whose copy has not begun. */
export async function endAllGenerations(options: GenerationOptions): Promise<void> {
  for (const recorded of await readSnapshots(options.target, options.shadowId)) {
    if (recorded.exported.length > 0) await endGeneration(options, recorded);
  }
}

/** A process that lost its last connection ends by itself. A pid may belong to someone else by now. */
async function endKeepers(options: GenerationOptions, backendPids: readonly number[]) {
  await using source = await openSession(options.source, {
    applicationName: `understudy ${options.shadowId} copy`,
  });
  await source.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE pid = ANY ($1::integer[]) AND application_name = $2`,
    [backendPids.map(String), keeperApplicationName(options.shadowId)],
  );
}
