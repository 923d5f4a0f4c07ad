import type { Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { RelationShape } from '#src/core/schema-shape.ts';
import { quoteLiteral, quoteTable, type Table } from '#src/core/table.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { readLatestVersions } from '#src/shadow/ddl/version-ledger.ts';
import { isUnwritable } from '#src/shadow/follow/apply/ddl-messages.ts';
import {
  readRelationRecords,
  readShadows,
  recordedColumns,
  type RelationRecord,
} from '#src/shadow/ledger.ts';
import { describeGap, readPublishedParts } from '#src/shadow/publication.ts';

import type { Pair } from './pair.ts';

/**
 * How a stopped table that was made the source's of a fence follows again from there: only if the stream
 * has each of its changes since.
 */

/**
 * Of the given tables, by OID, why they cannot follow from the fence on that `pair` stands at, as
 * sentences. The others are stopped, and the publication has had them from before the fence until now.
 *
 * What becomes of the publication later is in the stream behind the fence, or seen by the follower: a key
 * that is dropped now is news, since the version on record has one.
 */
export async function findUnfollowable(options: {
  readonly pair: Pair;
  readonly source: Endpoint;
  readonly shadowId: string;
  readonly tables: readonly Table[];
}): Promise<ReadonlyMap<number, string>> {
  const { pair, shadowId, tables } = options;
  if (tables.length === 0) return new Map();
  const shadows = await readShadows(pair.target);
  const oid = shadows.find((shadow) => shadow.shadowId === shadowId)?.publicationOid ?? 0;
  const records = await readRelationRecords(pair.target, shadowId, 'not followed');
  const versions = await readLatestVersions(pair.target, shadowId);
  const then = await readPublishedParts(pair.source, oid);
  await using source = await openSession(options.source, { applicationName: 'understudy repair' });
  const now = await readPublishedParts(source, oid);
  const unfollowable = new Map<number, string>();
  for (const table of tables) {
    const record = records.find(({ sourceOid }) => sourceOid === table.oid);
    const shape = versions.get(table.oid)?.shape;
    const why =
      record?.state !== 'stopped'
        ? `table ${quoteTable(table)} is on its way back and was not repaired`
        : record.startLsn === undefined
          ? `table ${quoteTable(table)} was never copied and was not repaired; reseed it`
          : describeLoss(table, record, { shape, published: [then, now] });
    if (why !== undefined) unfollowable.set(table.oid, why);
  }
  return unfollowable;
}

function describeLoss(
  table: Table,
  record: RelationRecord,
  seen: {
    readonly shape: RelationShape | undefined;
    readonly published: readonly ReadonlyMap<number, string>[];
  },
): string | undefined {
  // It is about to be taken out of the publication, and the stream has said so already.
  if (seen.shape !== undefined && isUnwritable(seen.shape)) {
    return `table ${quoteTable(table)} was without a replica identity and was not repaired; reseed it`;
  }
  for (const parts of seen.published) {
    const gap = describeGap(table, record.published, parts.get(table.oid));
    if (gap !== undefined) return `${gap}; it was not repaired: reseed it`;
  }
  return undefined;
}

/** With the repair's transaction, it follows from the fence on by the shape that it has now. */
export async function rejoin(
  target: WireConnection,
  shadowId: string,
  table: Table,
  lsn: Lsn,
): Promise<void> {
  const row = `shadow_id = ${quoteLiteral(shadowId)} AND source_oid = ${table.oid}`;
  const columns = quoteLiteral(JSON.stringify(recordedColumns(table)));
  const key = table.key.map(quoteLiteral).join(', ');
  await target.query(
    `UPDATE understudy.relation
        SET state = 'copied', start_lsn = '${formatLsn(lsn)}', stop_lsn = NULL, stop_code = NULL,
            stop_message = NULL, stopped_at = NULL, waits_for = NULL, is_spooled = false, spool_bytes = 0,
            schema_name = ${quoteLiteral(table.schema)}, table_name = ${quoteLiteral(table.name)},
            columns = ${columns}::jsonb, key_columns = ARRAY[${key}]::text[]
      WHERE ${row} AND state = 'stopped';
     DELETE FROM understudy.chunk WHERE ${row}`,
  );
}
