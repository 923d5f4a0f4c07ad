import * as z from 'zod';

import { isBinarySafe } from '#src/core/binary-safe.ts';
import { formatLsn, type Lsn, parseLsn } from '#src/core/lsn.ts';
import type { Phase } from '#src/core/progress.ts';
import type { Selection } from '#src/core/selection.ts';
import { copiedColumns, type Table, type TableName } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { LEDGER_SCHEMA, LEDGER_VERSION } from '#src/db/postgres/ledger-schema.ts';
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
  readonly phase: Phase;
  readonly stopCode: string | undefined;
  readonly stopMessage: string | undefined;
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
});

/** Make schema `understudy` if it is not there. */
export async function installLedger(target: Session): Promise<void> {
  // Two runners may come at once; IF NOT EXISTS alone fails when both create.
  await target.transaction(async () => {
    await target.query(`SELECT pg_catalog.pg_advisory_xact_lock(${LEDGER_LOCK})`);
    await target.query(LEDGER_SCHEMA);
  });
}

const LEDGER_LOCK = 0x75_6e_64_65; // "unde"

/** Whether the target has a ledger at all. */
export async function hasLedger(target: Session): Promise<boolean> {
  const [row] = await target.query(`SELECT to_regclass('understudy.shadow') IS NOT NULL AS found`);
  return row?.['found'] === 't';
}

export async function insertShadow(target: Session, shadow: ShadowRecord): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.shadow
       (shadow_id, ledger_version, source_system_id, source_timeline, source_database, source_address,
        slot_name, publication_name, publication_oid, origin_name, selection, is_followed,
        stream_format, consistent_lsn, spool_directory, source_wal_bytes_max, phase)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
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
  const version = Number(row['ledger_version']);
  if (version !== LEDGER_VERSION) {
    throw new OperatorError(
      'CONFIG_INVALID',
      `shadow ${row['shadow_id']} has ledger version ${version}; this is version ${LEDGER_VERSION}`,
    );
  }
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
    phase: phaseSchema.parse(row['phase']),
    stopCode: row['stop_code'] ?? undefined,
    stopMessage: row['stop_message'] ?? undefined,
  };
}

/** Columns of the shadow's row that change after its creation. */
export type ShadowUpdate = Partial<{
  readonly phase: Phase;
  readonly consistentLsn: Lsn;
  readonly publicationOid: number;
  readonly spoolDirectory: string;
  readonly isFollowed: boolean;
  readonly sourceWalBytesMax: number;
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
    spool_directory: update.spoolDirectory,
    is_followed: update.isFollowed,
    source_wal_bytes_max: update.sourceWalBytesMax,
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

const streamedColumns = z.array(z.object({ name: z.string(), typeOid: z.number() }));

/** A table of the dataset as it was when the shadow was made, and where it stands. */
export type RelationRecord = TableName & {
  readonly sourceOid: number;
  readonly state: 'pending' | 'copying' | 'copied' | 'stopped';
  /** Changes apply whose commit record starts at or after it; undefined until the copy begins. */
  readonly startLsn: Lsn | undefined;
  readonly key: readonly string[];
  /** As the stream describes them: without generated columns, in attnum order. */
  readonly columns: z.infer<typeof streamedColumns>;
  readonly rows: number;
  readonly stopMessage: string | undefined;
};

export async function insertRelations(
  target: Session,
  shadowId: string,
  tables: readonly Table[],
): Promise<void> {
  const rows = tables.map((table) => ({
    oid: table.oid,
    schema_name: table.schema,
    table_name: table.name,
    key_columns: table.key,
    columns: copiedColumns(table).map(({ name, typeOid }) => ({ name, typeOid })),
  }));
  await target.execute(
    `INSERT INTO understudy.relation (shadow_id, source_oid, schema_name, table_name, state, key_columns, columns)
     SELECT $1, t.oid, t.schema_name, t.table_name, 'pending', t.key_columns, t.columns
       FROM jsonb_to_recordset($2::jsonb)
            AS t (oid bigint, schema_name text, table_name text, key_columns text[], columns jsonb)`,
    [shadowId, JSON.stringify(rows)],
  );
}

export async function readRelationRecords(
  target: Session,
  shadowId: string,
): Promise<readonly RelationRecord[]> {
  const rows = await target.query(
    `SELECT source_oid, schema_name, table_name, state, start_lsn, to_json(key_columns) AS key_columns,
            columns, rows, stop_message
       FROM understudy.relation WHERE shadow_id = $1 ORDER BY schema_name, table_name`,
    [shadowId],
  );
  return rows.map((row) => ({
    sourceOid: Number(row['source_oid']),
    schema: row['schema_name'] ?? '',
    name: row['table_name'] ?? '',
    state: z.enum(['pending', 'copying', 'copied', 'stopped']).parse(row['state']),
    startLsn: parseLsn(row['start_lsn'] ?? ''),
    key: z.array(z.string()).parse(JSON.parse(row['key_columns'] ?? '[]')),
    columns: streamedColumns.parse(JSON.parse(row['columns'] ?? '[]')),
    rows: Number(row['rows']),
    stopMessage: row['stop_message'] ?? undefined,
  }));
}

/** A table that does not follow any more (trap 19); the first reason stays. */
export async function stopRelation(
  target: Session,
  shadowId: string,
  stop: { readonly sourceOid: number; readonly lsn: Lsn; readonly message: string },
): Promise<void> {
  await target.execute(
    `UPDATE understudy.relation SET state = 'stopped', stop_lsn = $3::pg_lsn, stop_message = $4
      WHERE shadow_id = $1 AND source_oid = $2 AND state <> 'stopped'`,
    [shadowId, stop.sourceOid, formatLsn(stop.lsn), stop.message],
  );
}

/** Binary only if every value of the dataset means the same on both servers; the stream has one format. */
export function chooseStreamFormat(tables: readonly Table[]): 'text' | 'binary' {
  return tables.every((table) => copiedColumns(table).every(isBinarySafe)) ? 'binary' : 'text';
}
