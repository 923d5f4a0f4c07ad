import type { Table } from '#src/core/table.ts';
import { type PartitionedTable, readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { dropSlot } from '#src/db/postgres/replication/slot.ts';
import { assert } from '#src/lib/assert.ts';
import {
  endAllGenerations,
  type HeldSnapshot,
  holdGeneration,
} from '#src/shadow/copy/generations.ts';
import { installCapture } from '#src/shadow/ddl/capture.ts';
import { recordFirstVersions } from '#src/shadow/ddl/version-ledger.ts';
import { prepareLargeObjects } from '#src/shadow/large-objects/copy-large-objects.ts';
import { includesLargeObjects } from '#src/shadow/large-objects/read-objects.ts';
import { initProgress } from '#src/shadow/lease.ts';
import { recordPublished, type ShadowRecord, type ShadowUpdate } from '#src/shadow/ledger.ts';
import {
  createPublication,
  dropPublication,
  readPublication,
  readPublishedParts,
} from '#src/shadow/publication.ts';

import type { CloneDeps, CloneOptions } from './clone-options.ts';
import { requireUnchanged } from './dataset.ts';
import { takeSlot } from './take-snapshot.ts';

const DROP_DEADLINE_MS = 10_000;

/**
 * Event triggers if asked for, the first version of every table, publication (trap 3), then the slot and its snapshot; each as far as it is not on record. Returns
 * the snapshot if it was made now; that of an earlier run is adopted by the copy.
 *
 * Throws TABLE_CHANGED, before the slot is on record, when the tables are not as they were read.
 */
export async function prepareSource(run: {
  readonly deps: CloneDeps;
  readonly options: CloneOptions;
  readonly control: Session;
  readonly shadow: ShadowRecord;
  readonly tables: readonly Table[];
  readonly partitioned: readonly PartitionedTable[];
  readonly record: (update: ShadowUpdate) => Promise<void>;
}): Promise<HeldSnapshot | undefined> {
  const { deps, options, shadow, record } = run;
  const { source, target } = options;
  const { shadowId, slotName, publicationName } = shadow;
  assert(slotName !== undefined && publicationName !== undefined, 'the names are on record');
  await using session = await openSession(source, { applicationName: `understudy ${shadowId}` });
  deps.failpoints.hit('clone.beforeCapture');
  if (options.ddlTriggers === true && !shadow.hasDdlTriggers) {
    await installCapture(session, shadowId);
    await record({ hasDdlTriggers: true });
  }
  deps.failpoints.hit('clone.afterCapture');
  if (shadow.consistentLsn === undefined) {
    // Before the slot: every later change is either in the stream or seen against these.
    const oids = [...run.tables, ...run.partitioned].map(({ oid }) => oid);
    await recordFirstVersions({ source: session, target: run.control }, shadowId, oids);
  }
  if (shadow.publicationOid === undefined) {
    deps.failpoints.hit('clone.beforePublication');
    await makePublication(session, publicationName, run);
    deps.failpoints.hit('clone.afterPublication');
  }
  if (shadow.consistentLsn !== undefined) return undefined;
  await using ledger = await openSession(target, { applicationName: `understudy ${shadowId}` });
  // A crash may have left one of an earlier slot; a copy from it would lack what came before this slot.
  await endAllGenerations({ ...deps, source, target: ledger, shadowId });
  await dropSlot(session, slotName, DROP_DEADLINE_MS);
  if (includesLargeObjects(shadow.selection)) await prepareLargeObjects(session, ledger, shadowId);
  deps.failpoints.hit('clone.beforeSlot');
  const slot = await takeSlot({ ...deps, source, shadowId, name: slotName, temporary: false });
  deps.failpoints.hit('clone.afterSlot');
  try {
    // The slot may have waited for minutes, in which production went on changing its tables.
    requireUnchanged(run.tables, await readTables(session, shadow.selection));
  } catch (error) {
    await slot[Symbol.asyncDispose]();
    // If nobody starts again, it would keep production's WAL for nothing.
    await dropSlot(session, slotName, DROP_DEADLINE_MS);
    throw error;
  }
  const held = await holdGeneration(
    { ...deps, source, target: ledger, shadowId },
    {
      snapshotName: slot.snapshotName,
      lsn: slot.consistentLsn,
      release: async () => slot[Symbol.asyncDispose](),
    },
  );
  deps.failpoints.hit('clone.afterKeepers');
  await initProgress(run.control, shadowId, slot.consistentLsn);
  deps.failpoints.hit('clone.afterProgress');
  await record({ consistentLsn: slot.consistentLsn });
  deps.failpoints.hit('clone.afterSnapshot');
  return held;
}

async function makePublication(
  session: Session,
  name: string,
  run: {
    readonly deps: CloneDeps;
    readonly control: Session;
    readonly shadow: ShadowRecord;
    readonly tables: readonly Table[];
    readonly record: (update: ShadowUpdate) => Promise<void>;
  },
): Promise<void> {
  // One that was made just before a crash is not on record; nothing reads it yet.
  const leftOid = await readPublication(session, name);
  if (leftOid !== undefined) await dropPublication(session, { name, oid: leftOid });
  const { oid } = await createPublication({ session, name, tables: run.tables });
  // First: a publication that is on record is watched for what is on record of it.
  await recordPublished(run.control, run.shadow.shadowId, await readPublishedParts(session, oid));
  run.deps.failpoints.hit('clone.beforePublicationRecord');
  await run.record({ publicationOid: oid });
}
