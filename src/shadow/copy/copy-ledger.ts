import * as z from 'zod';

import type { TableCut } from '#src/core/copy-plan.ts';
import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import { quoteLiteral, quoteTable, type Table } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';

/** The copy's rows of the ledger on the target: snapshots, relations, parts (docs/state.md). */

export type RecordedSnapshot = {
  readonly generation: number;
  readonly lsn: Lsn;
  readonly snapshot: string;
  readonly exported: readonly string[];
  readonly backendPids: readonly number[];
};

const relationState = z.enum(['pending', 'copying', 'catching up', 'copied', 'stopped']);

export type RecordedRelation = {
  readonly state: z.infer<typeof relationState>;
  readonly generation: number;
  /** Undefined until the table has started. */
  readonly cut: TableCut | undefined;
  /** The parts of its generation that are copied, by number. */
  readonly parts: ReadonlyMap<number, Counts>;
};

export type Counts = { readonly rows: number; readonly bytes: number };

export type StartedTable = { readonly table: Table; readonly cut: TableCut };

export async function readSnapshots(
  target: Session,
  shadowId: string,
): Promise<readonly RecordedSnapshot[]> {
  const rows = await target.query(
    `SELECT generation, lsn, snapshot, array_to_json(exported) AS exported,
            array_to_json(backend_pids) AS backend_pids
       FROM understudy.snapshot WHERE shadow_id = $1 ORDER BY generation`,
    [shadowId],
  );
  return rows.map((row) => ({
    generation: numberOf(row, 'generation'),
    lsn: parseLsn(row['lsn'] ?? '') ?? lsn(0n),
    snapshot: row['snapshot'] ?? '',
    exported: z.array(z.string()).parse(JSON.parse(row['exported'] ?? '[]')),
    backendPids: z.array(z.number()).parse(JSON.parse(row['backend_pids'] ?? '[]')),
  }));
}

/** Insert the snapshot, or note its new keepers. */
export async function recordSnapshot(
  target: Session,
  shadowId: string,
  recorded: RecordedSnapshot,
): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.snapshot (shadow_id, generation, lsn, snapshot, exported, backend_pids)
     VALUES ($1, $2, $3, $4, $5, $6::integer[])
     ON CONFLICT (shadow_id, generation)
     DO UPDATE SET exported = excluded.exported, backend_pids = excluded.backend_pids`,
    [
      shadowId,
      recorded.generation,
      formatLsn(recorded.lsn),
      recorded.snapshot,
      recorded.exported,
      recorded.backendPids.map(String),
    ],
  );
}

/** Every relation that the ledger knows, by source OID. */
export async function readRelations(
  target: Session,
  shadowId: string,
): Promise<ReadonlyMap<number, RecordedRelation>> {
  const parts = new Map<string, Map<number, Counts>>();
  const partRows = await target.query(
    `SELECT p.source_oid, p.part, p.rows, p.bytes
       FROM understudy.part p
       JOIN understudy.relation r USING (shadow_id, source_oid, generation)
      WHERE p.shadow_id = $1`,
    [shadowId],
  );
  for (const row of partRows) {
    const oid = row['source_oid'] ?? '';
    const ofTable = parts.get(oid) ?? new Map<number, Counts>();
    parts.set(oid, ofTable);
    ofTable.set(numberOf(row, 'part'), {
      rows: numberOf(row, 'rows'),
      bytes: numberOf(row, 'bytes'),
    });
  }
  const relationRows = await target.query(
    `SELECT source_oid, state, generation, pages, part_pages, source_bytes
       FROM understudy.relation WHERE shadow_id = $1`,
    [shadowId],
  );
  return new Map(
    relationRows.map((row) => [
      numberOf(row, 'source_oid'),
      {
        state: relationState.parse(row['state']),
        generation: numberOf(row, 'generation'),
        cut:
          row['part_pages'] === null
            ? undefined
            : {
                pages: numberOf(row, 'pages'),
                partPages: numberOf(row, 'part_pages'),
                sourceBytes: numberOf(row, 'source_bytes'),
              },
        parts: parts.get(row['source_oid'] ?? '') ?? new Map<number, Counts>(),
      },
    ]),
  );
}

/** Bind tables to a generation, in one transaction: from here on their parts are fixed. */
export async function recordStart(
  target: Session,
  shadowId: string,
  generation: RecordedSnapshot,
  started: readonly StartedTable[],
): Promise<void> {
  const column = (value: (item: StartedTable) => number | string): string[] =>
    started.map((item) => String(value(item)));
  await target.execute(
    `INSERT INTO understudy.relation (shadow_id, source_oid, schema_name, table_name, generation,
                                      state, start_lsn, pages, part_pages, source_bytes)
     SELECT $1, t.oid, t.schema_name, t.table_name, $2::integer, 'copying', $3::pg_lsn,
            t.pages, t.part_pages, t.source_bytes
       FROM unnest($4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])
            AS t (oid, schema_name, table_name, pages, part_pages, source_bytes)
     ON CONFLICT (shadow_id, source_oid) DO UPDATE
        SET generation = excluded.generation, state = excluded.state,
            start_lsn = excluded.start_lsn, pages = excluded.pages,
            part_pages = excluded.part_pages, source_bytes = excluded.source_bytes,
            rows = 0, bytes = 0, stop_lsn = NULL, is_spooled = false`,
    [
      shadowId,
      generation.generation,
      formatLsn(generation.lsn),
      column(({ table }) => table.oid),
      column(({ table }) => table.schema),
      column(({ table }) => table.name),
      column(({ cut }) => cut.pages),
      column(({ cut }) => cut.partPages),
      column(({ cut }) => cut.sourceBytes),
    ],
  );
}

/** Empty a table and bind it to a newer generation, all or nothing (traps 1 and 2). */
export async function recordRestart(
  target: Session,
  shadowId: string,
  generation: RecordedSnapshot,
  started: StartedTable,
): Promise<void> {
  await target.transaction(async () => {
    // The row first: who copies a part locks it before the table, in the same order.
    await recordStart(target, shadowId, generation, [started]);
    await emptyTable(target, started.table);
    await target.execute(
      'DELETE FROM understudy.part WHERE shadow_id = $1 AND source_oid = $2 AND generation < $3',
      [shadowId, started.table.oid, generation.generation],
    );
  });
}

/** TRUNCATE refuses a table that others refer to by foreign key. */
async function emptyTable(target: Session, table: Table): Promise<void> {
  const name = quoteTable(table);
  const [row] = await target.query(
    `SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint
       WHERE contype = 'f' AND confrelid = $1::regclass AND conrelid <> confrelid) AS is_referred`,
    [name],
  );
  if (row?.['is_referred'] !== 't') {
    await target.query(`TRUNCATE ONLY ${name}`);
    return;
  }
  await target.query('SET LOCAL session_replication_role = replica');
  await target.query(`DELETE FROM ONLY ${name}`);
}

/** The table has all its parts; one that is in a lane needs the changes since its snapshot before it follows. */
export async function recordCopied(
  target: Session,
  shadowId: string,
  table: Table,
  generation: number,
): Promise<void> {
  const updated = await target.execute(
    `UPDATE understudy.relation r
        SET state = CASE WHEN is_in_lane THEN 'catching up' ELSE 'copied' END,
            applied_lsn = CASE WHEN is_in_lane THEN start_lsn END, rows = p.rows, bytes = p.bytes
       FROM (SELECT coalesce(sum(rows), 0) AS rows, coalesce(sum(bytes), 0) AS bytes
               FROM understudy.part
              WHERE shadow_id = $1 AND source_oid = $2 AND generation = $3) p
      WHERE r.shadow_id = $1 AND r.source_oid = $2 AND r.generation = $3`,
    [shadowId, table.oid, generation],
  );
  assert(updated === 1, 'a table that was copied is in the ledger');
}

/** Names a part of a table in one generation. */
export type PartKey = {
  readonly shadowId: string;
  readonly oid: number;
  readonly generation: number;
  readonly number: number;
};

/**
 * Opens the transaction that copies a part, with three results to read: a row while the table is of this
 * generation, whose change is held back until the end; a row if the part is ours to copy; a row with its
 * counts if it is copied already. The claim waits for a transaction that another connection left behind,
 * and whose COMMIT may have been lost on the way to us.
 */
export function claimPartSql(key: PartKey): string {
  return `BEGIN;
    SELECT FROM understudy.relation WHERE ${whereTable(key)} AND state = 'copying' FOR SHARE;
    INSERT INTO understudy.part (shadow_id, source_oid, generation, part, rows, bytes)
    VALUES (${quoteLiteral(key.shadowId)}, ${key.oid}, ${key.generation}, ${key.number}, 0, 0)
    ON CONFLICT DO NOTHING RETURNING part;
    SELECT rows, bytes FROM understudy.part WHERE ${whereTable(key)} AND part = ${key.number}`;
}

/** Belongs into the transaction that copied the part. */
export function recordPartSql(key: PartKey, counts: Counts): string {
  return `UPDATE understudy.part
      SET rows = ${counts.rows}, bytes = ${counts.bytes}, copied_at = clock_timestamp()
    WHERE ${whereTable(key)} AND part = ${key.number}`;
}

function whereTable(key: PartKey): string {
  const shadowId = quoteLiteral(key.shadowId);
  return `shadow_id = ${shadowId} AND source_oid = ${key.oid} AND generation = ${key.generation}`;
}

function numberOf(row: Row, column: string): number {
  const value = Number(row[column]);
  assert(Number.isSafeInteger(value), `ledger column ${column} holds a whole number`);
  return value;
}
