import type { Report } from '#src/core/progress.ts';
import type { Selection } from '#src/core/selection.ts';
import { quoteTable, type Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';

import { hasRecordedShape } from './dataset.ts';

/**
 * Looks for changes of the dataset that no row has shown yet, and says each once: tables that appeared
 * are not followed, tables that went or changed their shape will stop. The rows themselves are safe
 * without this: the stream describes a table before its first changed row, and the apply loop stops there.
 */
export function createSchemaWatch(deps: {
  readonly source: Session;
  readonly target: Session;
  readonly selection: Selection;
  readonly shadowId: string;
  readonly report: Report;
}): () => Promise<void> {
  const { source, target, selection, shadowId, report } = deps;
  const said = new Set<string>();
  return async () => {
    const records = await readRelationRecords(target, shadowId);
    const tables = await readTables(source, selection);
    await recordArrivals(target, shadowId, records, tables);
    for (const message of describeDrift(records, tables)) {
      if (!said.has(message)) report({ type: 'notice', level: 'warn', message });
      said.add(message);
    }
  };
}

/** A table that is not of the shadow is on record as stopped, so that nothing takes it for in sync. */
async function recordArrivals(
  target: Session,
  shadowId: string,
  records: readonly RelationRecord[],
  tables: readonly Table[],
): Promise<void> {
  const known = new Set(records.map((record) => record.sourceOid));
  for (const table of tables.filter(({ oid }) => !known.has(oid))) {
    await target.execute(
      `INSERT INTO understudy.relation (shadow_id, source_oid, schema_name, table_name, state,
                                        stop_code, stop_message, waits_for, stopped_at)
       VALUES ($1, $2, $3, $4, 'stopped', 'TABLE_CHANGED',
               'it appeared on the source after the shadow was made', 'reseed', now())
       ON CONFLICT DO NOTHING`,
      [shadowId, table.oid, table.schema, table.name],
    );
  }
}

function describeDrift(
  records: readonly RelationRecord[],
  tables: readonly Table[],
): readonly string[] {
  const byOid = new Map(tables.map((table) => [table.oid, table]));
  const known = new Set(records.filter(({ key }) => key.length > 0).map((one) => one.sourceOid));
  const arrived = tables
    .filter(({ oid }) => !known.has(oid))
    .map((table) => `table ${quoteTable(table)} appeared on the source and is not followed`);
  const changed = records
    .filter(({ state, key }) => state === 'copied' && key.length > 0)
    .flatMap((record) => {
      const table = byOid.get(record.sourceOid);
      if (table === undefined) return [`table ${quoteTable(record)} is gone from the source`];
      if (hasRecordedShape(record, table)) return [];
      return [
        `table ${quoteTable(record)} has other columns on the source now; it stops at its next change`,
      ];
    });
  return [...arrived, ...changed];
}
