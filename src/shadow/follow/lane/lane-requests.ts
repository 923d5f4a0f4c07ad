import * as z from 'zod';

import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteIdentifier, quoteTable, type Table, type TableName } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { enterLane, enterReseed, type TableShape } from '#src/shadow/follow/table-states.ts';
import {
  recordedColumns,
  type RelationRecord,
  readRelationRecords,
  type ShadowRecord,
} from '#src/shadow/ledger.ts';
import {
  describeGap,
  isToPublish,
  readPublishedParts,
  whyNotPublishedLate,
} from '#src/shadow/publication.ts';

/**
 * The follower's side of `resume` and `reseed` (docs/state.md): a request is judged against both sides as
 * they are now, and each of its tables is put on its way in the ledger, or the request fails as a whole.
 */
export type LaneRequestDeps = {
  readonly source: Endpoint;
  readonly shadow: ShadowRecord;
  readonly epoch: bigint;
  readonly failpoints: Failpoints;
};

type Request = {
  readonly requestId: string;
  readonly kind: 'resume' | 'reseed';
  readonly tables: readonly TableName[];
};

const tableNames = z.array(z.object({ schema: z.string(), name: z.string() }));

/** Answer every request that is open. */
export async function serveLaneRequests(deps: LaneRequestDeps, target: Session): Promise<void> {
  const { shadow, failpoints } = deps;
  for (const request of await openRequests(target, shadow.shadowId)) {
    const refusal = await take(deps, target, request).then(
      () => undefined,
      (error: unknown) => {
        if (error instanceof OperatorError && error.code === 'RETURN_REFUSED') return error;
        throw error;
      },
    );
    failpoints.hit('lane.beforeAnswer');
    await target.execute(
      `UPDATE understudy.request SET state = $2, code = $3, message = $4
        WHERE request_id = $1 AND state = 'open'`,
      [
        request.requestId,
        refusal === undefined ? 'released' : 'failed',
        refusal?.code ?? null,
        refusal?.message ?? null,
      ],
    );
    failpoints.hit('lane.afterAnswer');
  }
}

async function openRequests(target: Session, shadowId: string): Promise<readonly Request[]> {
  await target.execute(
    `UPDATE understudy.request SET state = 'expired'
      WHERE shadow_id = $1 AND kind IN ('resume', 'reseed') AND state = 'open' AND deadline < now()`,
    [shadowId],
  );
  const rows = await target.query(
    `SELECT request_id, kind, tables FROM understudy.request
      WHERE shadow_id = $1 AND kind IN ('resume', 'reseed') AND state = 'open' ORDER BY request_id`,
    [shadowId],
  );
  return rows.map((row) => ({
    requestId: row['request_id'] ?? '',
    kind: row['kind'] === 'resume' ? 'resume' : 'reseed',
    tables: tableNames.parse(JSON.parse(row['tables'] ?? '[]')),
  }));
}

/** Throws RETURN_REFUSED before anything is changed. */
async function take(deps: LaneRequestDeps, target: Session, request: Request): Promise<void> {
  const { shadow, epoch } = deps;
  await using source = await openSession(deps.source, {
    applicationName: `understudy ${shadow.shadowId} lanes`,
    answerMsMax: ANSWER_MS_MAX,
  });
  const records = await readRelationRecords(target, shadow.shadowId);
  const tables = await readTables(source, shadow.selection);
  const published = await readPublishedParts(source, shadow.publicationOid ?? 0);
  const shapes: TableShape[] = [];
  for (const name of request.tables) {
    const { record, table } = findTable({ records, tables, name, kind: request.kind });
    if (request.kind === 'resume') {
      const gap = describeGap(table, record.published, published.get(record.sourceOid));
      if (gap !== undefined) throw refused(`${gap}; reseed it`);
    }
    const unsafe = whyNotPublishedLate(source.serverVersion);
    const part = published.get(table.oid);
    const isLate = isToPublish(part, table) || part !== record.published;
    if (unsafe !== undefined && isLate) {
      throw refused(`table ${quoteTable(name)} cannot follow: ${unsafe}`);
    }
    await requireTargetColumns(target, table);
    shapes.push({
      sourceOid: table.oid,
      schema: table.schema,
      name: table.name,
      columns: recordedColumns(table),
      key: table.key,
    });
  }
  deps.failpoints.hit('lane.beforeEnter');
  const enter = request.kind === 'resume' ? enterLane : enterReseed;
  for (const shape of shapes) {
    // One that another request has put on its way meanwhile is what was asked for.
    await enter({ target, shadowId: shadow.shadowId, epoch }, shape);
  }
  deps.failpoints.hit('lane.afterEnter');
}

/** The stopped table of that name, by its name when it stopped or the one that it has now. */
function findTable(parts: {
  readonly records: readonly RelationRecord[];
  readonly tables: readonly Table[];
  readonly name: TableName;
  readonly kind: Request['kind'];
}): { readonly record: RelationRecord; readonly table: Table } {
  const { records, tables, name, kind } = parts;
  const quoted = quoteTable(name);
  const isNamed = (one: TableName): boolean => one.schema === name.schema && one.name === name.name;
  const named = tables.find(isNamed);
  const candidates = records.filter((one) => isNamed(one) || one.sourceOid === named?.oid);
  const record =
    candidates.find((one) => one.state === 'stopped' && one.sourceOid === named?.oid) ??
    candidates.find(({ state }) => state === 'stopped') ??
    candidates[0];
  if (record === undefined) throw refused(`the shadow has no table ${quoted}`);
  if (record.state !== 'stopped') {
    throw refused(`table ${quoted} has not stopped: it is ${record.state}`);
  }
  const same = tables.find(({ oid }) => oid === record.sourceOid);
  if (kind === 'reseed') {
    const table = same ?? named;
    if (table !== undefined) return { record, table };
    throw refused(`table ${quoted} was dropped on the source`);
  }
  if (record.stop?.waitsFor !== 'resume' || !record.isSpooled) {
    const why = record.isSpooled
      ? 'its rows were changed beside the stream'
      : 'the spool has let its changes go';
    throw refused(`table ${quoted} cannot be resumed, ${why}; reseed it`);
  }
  if (same !== undefined) return { record, table: same };
  throw refused(
    named === undefined
      ? `table ${quoted} was dropped on the source`
      : `table ${quoted} was dropped on the source and made again; reseed it`,
  );
}

/** By name and type: what the stream will name has to be on the target, under the source's name. */
async function requireTargetColumns(target: Session, table: Table): Promise<void> {
  const quoted = quoteTable(table);
  const rows = await target.query(
    `SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
       FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''`,
    [quoted],
  );
  const [found] = await target.query('SELECT to_regclass($1) AS oid', [quoted]);
  if (found?.['oid'] === null) throw refused(`the target has no table ${quoted}`);
  const types = new Map(rows.map((row) => [row['attname'], row['type']]));
  const wanted = table.columns.filter(({ isGenerated }) => !isGenerated);
  const missing = wanted.filter(({ name }) => !types.has(name));
  if (missing.length > 0) {
    const names = missing.map(({ name, typeName }) => `${quoteIdentifier(name)} ${typeName}`);
    throw refused(
      `table ${quoted} of the target lacks ${names.length === 1 ? 'column' : 'columns'} ${names.join(', ')}`,
    );
  }
  for (const { name, typeName } of wanted) {
    if (types.get(name) === typeName) continue;
    throw refused(
      `column ${quoteIdentifier(name)} of table ${quoted} is ${types.get(name)} on the target and ${typeName} on the source`,
    );
  }
}

function refused(message: string): OperatorError {
  return new OperatorError('RETURN_REFUSED', message);
}
