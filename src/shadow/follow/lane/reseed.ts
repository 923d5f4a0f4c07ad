import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import { quoteTable, type Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { hasRecordedShape } from '#src/shadow/clone/dataset.ts';
import { takeSlotSnapshot } from '#src/shadow/clone/take-snapshot.ts';
import { copyTables } from '#src/shadow/copy/copy.ts';
import { recordReseededVersion } from '#src/shadow/ddl/version-ledger.ts';
import { recordPublished, type RelationRecord, type ShadowRecord } from '#src/shadow/ledger.ts';
import {
  publishTables,
  readPublishedParts,
  requireLatePublication,
} from '#src/shadow/publication.ts';
import { planChunking } from '#src/shadow/verify/chunking.ts';

/**
 * Copy tables of a shadow while it is followed: those that are copied again, and those that are added.
 *
 *     publication has them ─► slot snapshot ─► emptied, bound to its generation ─► parts ─► catching up
 *
 * Each step is on record, so an attempt after a crash goes on where the last one ended, from the same
 * snapshot while its keepers live. Their changes since the snapshot are a lane's business.
 */
export type ReseedDeps = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly shadow: ShadowRecord;
  /** Connections to each side that copy at the same time. */
  readonly jobs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly report: Report;
  readonly failpoints: Failpoints;
};

/**
 * Returns when every table is on record as catching up. Nothing may trim the spool behind what the main
 * loop has applied at the call, until it returns.
 *
 * Throws TABLE_CHANGED for a table that is not as it was recorded (none is copied then), what publishing
 * throws, SLOT_BLOCKED with who is in the way, what copying throws, and `signal.reason`.
 */
export async function reseedTables(
  deps: ReseedDeps,
  records: readonly RelationRecord[],
  signal: AbortSignal,
): Promise<void> {
  const { shadow, failpoints } = deps;
  const { shadowId } = shadow;
  const applicationName = `understudy ${shadowId} reseed`;
  await using source = await openSession(deps.source, { applicationName });
  await using target = await openSession(deps.target, { applicationName });
  const tables = await requireTables(source, shadow, records);
  failpoints.hit('reseed.beforePublication');
  const publication = publicationOf(shadow);
  await publishTables(source, publication, tables);
  failpoints.hit('reseed.afterPublication');
  const parts = await readPublishedParts(source, publication.oid);
  // Also what somebody else has put in, or taken out and put back.
  const recorded = new Map(records.map(({ sourceOid, published }) => [sourceOid, published]));
  requireLatePublication(
    source,
    tables.filter(({ oid }) => parts.get(oid) !== recorded.get(oid)),
  );
  // Of others it stays as it was: what has changed there is for whoever watches, or resumes them, to see.
  const ours = new Set(tables.map(({ oid }) => oid));
  await recordPublished(target, shadowId, new Map([...parts].filter(([oid]) => ours.has(oid))));
  await copyTables({
    ...deps,
    shadowId,
    tables,
    isFollowed: true,
    isInLane: true,
    held: [],
    signal,
    takeSnapshot: async () => {
      failpoints.hit('reseed.beforeSnapshot');
      const taken = await takeSlotSnapshot({ ...deps, shadowId, signal });
      failpoints.hit('reseed.afterSnapshot');
      try {
        // A column that came since the record would be missing in every copied row.
        await requireTables(source, shadow, records);
        for (const { oid } of tables) {
          const version = { sourceOid: oid, at: taken.lsn };
          await recordReseededVersion({ source, target }, shadowId, version);
        }
      } catch (error) {
        await taken.release();
        throw error;
      }
      return taken;
    },
  });
  failpoints.hit('reseed.afterCopy');
  await planChunking({ source, target, shadowId, tables });
}

function publicationOf({ publicationName, publicationOid }: ShadowRecord) {
  if (publicationName !== undefined && publicationOid !== undefined) {
    return { name: publicationName, oid: publicationOid };
  }
  throw new OperatorError('PUBLICATION_CHANGED', 'the shadow has no publication on record');
}

/** The tables as the source has them now. */
async function requireTables(
  source: Session,
  shadow: ShadowRecord,
  records: readonly RelationRecord[],
): Promise<readonly Table[]> {
  const tables = await readTables(source, shadow.selection);
  return records.map((record) => {
    const table = tables.find(({ oid }) => oid === record.sourceOid);
    if (table !== undefined && isRecorded(record, table)) return table;
    throw new OperatorError(
      'TABLE_CHANGED',
      table === undefined
        ? `table ${quoteTable(record)} is not among the tables of the source that are shadowed`
        : `table ${quoteTable(record)} was changed on the source after its copy was asked for`,
      { detail: { relation: record.sourceOid } },
    );
  });
}

function isRecorded(record: RelationRecord, table: Table): boolean {
  return (
    record.schema === table.schema && record.name === table.name && hasRecordedShape(record, table)
  );
}
