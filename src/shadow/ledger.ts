import * as z from 'zod';

import { isBinarySafe } from '#src/core/binary-safe.ts';
import { formatLsn, type Lsn, parseLsn } from '#src/core/lsn.ts';
import type { Phase } from '#src/core/progress.ts';
import type { Selection } from '#src/core/selection.ts';
import { copiedColumns, type Table, type TableName } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import {
  LEDGER_COMMENT,
  LEDGER_SCHEMA,
  LEDGER_VERSION,
  TARGET_IDENTITY,
} from '#src/db/postgres/ledger-schema.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** A shadow's own row, its relations and its adjustments in the ledger on the target (docs/state.md). */

export type ShadowRecord = {
  readonly shadowId: string;
  readonly sourceSystemId: string;
  readonly sourceTimeline: number;
  readonly sourceDatabase: string;
  readonly sourceAddress: string;
  readonly slotName: string | undefined;
  readonly publicationName: string | undefined;
  readonly publicationOid: number | undefined;
  readonly originName: string | undefined;
  readonly selection: Selection;
  readonly isFollowed: boolean;
  readonly streamFormat: 'text' | 'binary';
  readonly consistentLsn: Lsn | undefined;
  readonly spoolDirectory: string | undefined;
  readonly sourceWalBytesMax: number;
  /** What the spool may keep for stopped tables alone. */
  readonly stoppedSpoolBytesMax: number;
  /** The lag beyond which the shadow is late; 0: none. */
  readonly maxLagMs: number;
  readonly phase: Phase;
  readonly stopCode: string | undefined;
  readonly stopMessage: string | undefined;
  /** Whether our event triggers are on the source. */
  readonly hasDdlTriggers: boolean;
};

const phaseSchema = z.enum([
  'preparing',
  'copying',
  'indexing',
  'catching up',
  'following',
  'complete',
  'stopped',
]);

const selectionSchema = z.object({
  schemas: z.array(z.string()),
  tables: z.array(z.string()),
  exclude: z.array(z.string()),
  where: z.array(z.object({ schema: z.string(), name: z.string(), predicate: z.string() })),
  excludeColumns: z.array(z.object({ schema: z.string(), name: z.string(), column: z.string() })),
});

/** Make schema `understudy` if it is not there. Throws LEDGER_VERSION. */
export async function installLedger(target: Session): Promise<void> {
  // Two runners may come at once; IF NOT EXISTS alone fails when both create.
  await target.transaction(async () => {
    await target.query(`SELECT pg_catalog.pg_advisory_xact_lock(${LEDGER_LOCK})`);
    if (!(await hasLedger(target))) await target.query(LEDGER_SCHEMA);
  });
}

const LEDGER_LOCK = 0x75_6e_64_65; // "unde"

/** Whether the target has a ledger at all. Throws LEDGER_VERSION when it is not one of this version. */
export async function hasLedger(target: Session): Promise<boolean> {
  const [row] = await target.query(
    `SELECT pg_catalog.obj_description(c.oid, 'pg_class') AS comment
       FROM pg_catalog.pg_class c WHERE c.oid = to_regclass('understudy.shadow')`,
  );
  if (row === undefined) return false;
  if (row['comment'] === LEDGER_COMMENT) return true;
  throw new OperatorError(
    'LEDGER_VERSION',
    `schema understudy of the target is not of ledger version ${LEDGER_VERSION}, ` +
      `it is of ${row['comment'] ?? 'ledger version 1'}`,
  );
}

export async function insertShadow(target: Session, shadow: ShadowRecord): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.shadow
       (shadow_id, ledger_version, source_system_id, source_timeline, source_database, source_address,
        slot_name, publication_name, publication_oid, origin_name, selection, is_followed,
        stream_format, consistent_lsn, spool_directory, source_wal_bytes_max, phase,
        stopped_spool_bytes_max, max_lag_ms, target_identity)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
             ${TARGET_IDENTITY})`,
    [
      shadow.shadowId,
      LEDGER_VERSION,
      shadow.sourceSystemId,
      shadow.sourceTimeline,
      shadow.sourceDatabase,
      shadow.sourceAddress,
      shadow.slotName ?? null,
      shadow.publicationName ?? null,
      shadow.publicationOid ?? null,
      shadow.originName ?? null,
      JSON.stringify(shadow.selection),
      shadow.isFollowed,
      shadow.streamFormat,
      shadow.consistentLsn === undefined ? null : formatLsn(shadow.consistentLsn),
      shadow.spoolDirectory ?? null,
      shadow.sourceWalBytesMax,
      shadow.phase,
      shadow.stoppedSpoolBytesMax,
      shadow.maxLagMs,
    ],
  );
}

/** Every shadow of a target, oldest first; none when it has no ledger. */
export async function readShadows(target: Session): Promise<readonly ShadowRecord[]> {
  if (!(await hasLedger(target))) return [];
  const rows = await target.query('SELECT * FROM understudy.shadow ORDER BY created_at, shadow_id');
  return rows.map(parseShadow);
}

function parseShadow(row: Row): ShadowRecord {
  const lsnText = row['consistent_lsn'];
  const oid = row['publication_oid'];
  return {
    shadowId: row['shadow_id'] ?? '',
    sourceSystemId: row['source_system_id'] ?? '',
    sourceTimeline: Number(row['source_timeline']),
    sourceDatabase: row['source_database'] ?? '',
    sourceAddress: row['source_address'] ?? '',
    slotName: row['slot_name'] ?? undefined,
    publicationName: row['publication_name'] ?? undefined,
    publicationOid: oid === null || oid === undefined ? undefined : Number(oid),
    originName: row['origin_name'] ?? undefined,
    selection: selectionSchema.parse(JSON.parse(row['selection'] ?? '{}')),
    isFollowed: row['is_followed'] === 't',
    streamFormat: row['stream_format'] === 'binary' ? 'binary' : 'text',
    consistentLsn: parseLsn(lsnText ?? ''),
    spoolDirectory: row['spool_directory'] ?? undefined,
    sourceWalBytesMax: Number(row['source_wal_bytes_max']),
    stoppedSpoolBytesMax: Number(row['stopped_spool_bytes_max']),
    maxLagMs: Number(row['max_lag_ms']),
    phase: phaseSchema.parse(row['phase']),
    stopCode: row['stop_code'] ?? undefined,
    stopMessage: row['stop_message'] ?? undefined,
    hasDdlTriggers: row['has_ddl_triggers'] === 't',
  };
}

/** Columns of the shadow's row that change after its creation. */
export type ShadowUpdate = Partial<{
  readonly phase: Phase;
  readonly consistentLsn: Lsn;
  readonly publicationOid: number;
  readonly sourceTimeline: number;
  readonly sourceAddress: string;
  readonly spoolDirectory: string;
  readonly isFollowed: boolean;
  readonly sourceWalBytesMax: number;
  readonly stoppedSpoolBytesMax: number;
  readonly maxLagMs: number;
  readonly hasDdlTriggers: boolean;
}>;

export async function updateShadow(
  target: Session,
  shadowId: string,
  update: ShadowUpdate,
): Promise<void> {
  const columns: Record<string, string | number | boolean | undefined> = {
    phase: update.phase,
    consistent_lsn:
      update.consistentLsn === undefined ? undefined : formatLsn(update.consistentLsn),
    publication_oid: update.publicationOid,
    source_timeline: update.sourceTimeline,
    source_address: update.sourceAddress,
    spool_directory: update.spoolDirectory,
    is_followed: update.isFollowed,
    source_wal_bytes_max: update.sourceWalBytesMax,
    has_ddl_triggers: update.hasDdlTriggers,
    stopped_spool_bytes_max: update.stoppedSpoolBytesMax,
    max_lag_ms: update.maxLagMs,
  };
  const set = Object.entries(columns).filter(([, value]) => value !== undefined);
  const assignments = set.map(([name], i) => `${name} = $${i + 2}`).join(', ');
  await target.execute(
    `UPDATE understudy.shadow SET ${assignments}, stop_code = NULL, stop_message = NULL WHERE shadow_id = $1`,
    [shadowId, ...set.map(([, value]) => value ?? null)],
  );
}

/** Note why the shadow needs an operator. */
export async function stopShadow(
  target: Session,
  shadowId: string,
  error: OperatorError,
): Promise<void> {
  await target.execute(
    `UPDATE understudy.shadow SET phase = 'stopped', stop_code = $2, stop_message = $3 WHERE shadow_id = $1`,
    [shadowId, error.code, error.message],
  );
}

const streamedColumns = z.array(
  z.object({ name: z.string(), attnum: z.number(), typeOid: z.number() }),
);

const relationState = z.enum(['pending', 'copying', 'catching up', 'copied', 'stopped']);
const waitsFor = z.enum(['resume', 'reseed']);

/**
 * Where a table of the shadow stands (docs/state.md). Only one that is `copied` follows by the main loop:
 *
 *     pending ─► copying ─► copied                      the clone's copy
 *     copied ─► stopped ─► catching up ─► copied        resume
 *     stopped ─► copying ─► catching up ─► copied       reseed; pending ─► … for one that is added
 */
export type RelationState = z.infer<typeof relationState>;

/** Why a table does not follow, and what it needs (trap 19). */
export type TableStop = {
  readonly code: string;
  readonly message: string;
  /** The table is the source as of here; undefined when it is of no position. */
  readonly lsn: Lsn | undefined;
  readonly waitsFor: z.infer<typeof waitsFor>;
};

/** A table of the dataset as it was when the shadow was made, and where it stands. */
export type RelationRecord = TableName & {
  readonly sourceOid: number;
  readonly state: RelationState;
  /** Changes apply whose commit record starts at or after it; undefined until the copy begins. */
  readonly startLsn: Lsn | undefined;
  /** A lane applies its changes, not the main loop, until it is `copied`. */
  readonly isInLane: boolean;
  /** Commit end of the last transaction that its lane has applied. */
  readonly appliedLsn: Lsn | undefined;
  readonly key: readonly string[];
  /** As the stream describes them: without generated columns, in attnum order. */
  readonly columns: z.infer<typeof streamedColumns>;
  readonly rows: number;
  /** Also while it is on its way back, until it follows. */
  readonly stop: (TableStop & { readonly at: string | undefined }) | undefined;
  /** Whether the spool keeps its changes since it stopped, and what that costs. */
  readonly isSpooled: boolean;
  readonly spoolBytes: number;
  /** What of it is published, as `readPublishedParts` gives it; '' when none of it is. */
  readonly published: string;
};

/** The tables of a new shadow. */
export async function insertRelations(
  target: Session,
  shadowId: string,
  tables: readonly Table[],
): Promise<void> {
  await insertPending(target, shadowId, { tables, isInLane: false });
}

/**
 * Put tables of the source on record that a shadow which is followed should have, too. The tables exist on
 * the target, empty, with the same columns; that is up to the caller. The follower finds the rows within
 * a second, publishes the tables, copies them from one snapshot for all, and follows them; nothing else
 * has to be called. Those that are on record already stay as they are.
 */
export async function addRelations(
  target: Session,
  shadowId: string,
  tables: readonly Table[],
): Promise<void> {
  await insertPending(target, shadowId, { tables, isInLane: true });
}

async function insertPending(
  target: Session,
  shadowId: string,
  { tables, isInLane }: { readonly tables: readonly Table[]; readonly isInLane: boolean },
): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.relation (shadow_id, source_oid, schema_name, table_name, state,
                                      is_in_lane, key_columns, columns)
     SELECT $1::text, t.oid, t.schema_name, t.table_name, 'pending', $3::boolean, t.key_columns, t.columns
       FROM jsonb_to_recordset($2::jsonb)
            AS t (oid bigint, schema_name text, table_name text, key_columns text[], columns jsonb)
     ON CONFLICT (shadow_id, source_oid) DO NOTHING`,
    [shadowId, JSON.stringify(pendingRows(tables)), isInLane],
  );
}

function pendingRows(tables: readonly Table[]) {
  return tables.map((table) => ({
    oid: table.oid,
    schema_name: table.schema,
    table_name: table.name,
    key_columns: table.key,
    columns: recordedColumns(table),
  }));
}

/** The columns of a table as the ledger has them, from the catalog. */
export function recordedColumns(table: Pick<Table, 'columns'>): RelationRecord['columns'] {
  return copiedColumns(table).map(({ name, attnum, typeOid }) => ({ name, attnum, typeOid }));
}

/** Every table of the shadow; or only those that the main loop does not follow, of which there are few. */
export async function readRelationRecords(
  target: Session,
  shadowId: string,
  which: 'all' | 'not followed' = 'all',
): Promise<readonly RelationRecord[]> {
  const rows = await target.query(
    `SELECT source_oid, schema_name, table_name, state, start_lsn, is_in_lane, applied_lsn,
            to_json(key_columns) AS key_columns, columns, rows, published, stop_lsn, stop_code, stop_message,
            to_json(stopped_at) #>> '{}' AS stopped_at, waits_for, is_spooled, spool_bytes
       FROM understudy.relation WHERE shadow_id = $1 AND ($2 OR state <> 'copied')
      ORDER BY schema_name, table_name`,
    [shadowId, which === 'all'],
  );
  return rows.map((row) => ({
    sourceOid: Number(row['source_oid']),
    schema: row['schema_name'] ?? '',
    name: row['table_name'] ?? '',
    state: relationState.parse(row['state']),
    startLsn: parseLsn(row['start_lsn'] ?? ''),
    isInLane: row['is_in_lane'] === 't',
    appliedLsn: parseLsn(row['applied_lsn'] ?? ''),
    key: z.array(z.string()).parse(JSON.parse(row['key_columns'] ?? '[]')),
    columns: streamedColumns.parse(JSON.parse(row['columns'] ?? '[]')),
    rows: Number(row['rows']),
    published: row['published'] ?? '',
    stop: parseStop(row),
    isSpooled: row['is_spooled'] === 't',
    spoolBytes: Number(row['spool_bytes']),
  }));
}

function parseStop(row: Row): RelationRecord['stop'] {
  if (typeof row['stop_message'] !== 'string') return undefined;
  return {
    code: row['stop_code'] ?? '',
    message: row['stop_message'],
    lsn: parseLsn(row['stop_lsn'] ?? ''),
    waitsFor: waitsFor.parse(row['waits_for']),
    at: row['stopped_at'] ?? undefined,
  };
}

/**
 * What a publication carries of its tables, by oid: it is to stay so. A snapshot that a copy is bound to is
 * of no use when it was otherwise before: the stream need not have the changes since. Nor can a stopped
 * table be resumed then, should its copy fail.
 */
export async function recordPublished(
  target: Session,
  shadowId: string,
  parts: ReadonlyMap<number, string>,
): Promise<void> {
  await target.execute(
    `UPDATE understudy.relation r SET published = p.part, generation = 0, is_spooled = false, spool_bytes = 0,
            waits_for = CASE WHEN r.stop_lsn IS NULL THEN r.waits_for ELSE 'reseed' END
       FROM unnest($2::int8[], $3::text[]) AS p (oid, part)
      WHERE r.shadow_id = $1 AND r.source_oid = p.oid AND r.published <> p.part`,
    [shadowId, [...parts.keys()].map(String), [...parts.values()]],
  );
}

/** Binary only if every value of the dataset means the same on both servers; the stream has one format. */
export function chooseStreamFormat(tables: readonly Table[]): 'text' | 'binary' {
  return tables.every((table) => copiedColumns(table).every(isBinarySafe)) ? 'binary' : 'text';
}
