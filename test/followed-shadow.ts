import { hostname } from 'node:os';

import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import type { Table } from '#src/core/table.ts';
import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { identifySource } from '#src/shadow/clone/register.ts';
import { recordFirstVersions } from '#src/shadow/ddl/version-ledger.ts';
import { initProgress, mayUseOrigin, takeLease } from '#src/shadow/lease.ts';
import {
  chooseStreamFormat,
  insertRelations,
  insertShadow,
  installLedger,
  readShadows,
  recordPublished,
  type ShadowRecord,
} from '#src/shadow/ledger.ts';
import { type Publication, readPublishedParts } from '#src/shadow/publication.ts';
import { planChunking } from '#src/shadow/verify/chunking.ts';

/**
 * Put on the target's record what a clone would have by the end of its copy: every table is copied as
 * of the slot's consistent point, and the caller is the runner.
 */
export async function recordFollowedShadow(options: {
  readonly source: Session;
  /** Holds the lease from now on. */
  readonly target: Session;
  readonly shadowId: string;
  readonly tables: readonly Table[];
  readonly publication: Publication;
  readonly slot: { readonly name: string; readonly consistentLsn: Lsn };
  readonly spoolDirectory: string;
  readonly maxLagMs?: number | undefined;
  /** What `tables` were read with; everything, when undefined. */
  readonly selection?: Selection;
}): Promise<{ shadow: ShadowRecord; epoch: bigint }> {
  const { source, target, shadowId, tables, publication, slot } = options;
  const system = await identifySource(source);
  await installLedger(target);
  const record: ShadowRecord = {
    shadowId,
    sourceSystemId: system.systemId,
    sourceTimeline: system.timeline,
    sourceDatabase: system.database,
    sourceAddress: system.database,
    slotName: slot.name,
    publicationName: publication.name,
    publicationOid: publication.oid,
    originName: (await mayUseOrigin(target)) ? slot.name : undefined,
    selection: options.selection ?? EVERYTHING,
    isFollowed: true,
    streamFormat: chooseStreamFormat(tables),
    consistentLsn: slot.consistentLsn,
    spoolDirectory: options.spoolDirectory,
    sourceWalBytesMax: 2 ** 40,
    stoppedSpoolBytesMax: 2 ** 40,
    maxLagMs: options.maxLagMs ?? 0,
    phase: 'following',
    stopCode: undefined,
    stopMessage: undefined,
    hasDdlTriggers: false,
  };
  await insertShadow(target, record);
  await insertRelations(target, shadowId, tables);
  const { partitioned } = await readRelations(source, EVERYTHING);
  const oids = [...tables, ...partitioned].map(({ oid }) => oid);
  await recordFirstVersions({ source, target }, shadowId, oids);
  await recordPublished(target, shadowId, await readPublishedParts(source, publication.oid));
  await target.query(
    `UPDATE understudy.relation SET state = 'copied', start_lsn = '${formatLsn(slot.consistentLsn)}'`,
  );
  await initProgress(target, record.shadowId, slot.consistentLsn);
  await planChunking({ source, target, shadowId, tables });
  const epoch = await takeLease(target, shadowId, `process ${process.pid} on ${hostname()}`);
  const [shadow] = await readShadows(target);
  if (shadow === undefined) throw new Error('the shadow was recorded');
  return { shadow, epoch };
}
