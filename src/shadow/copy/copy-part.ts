/**
 * One part of one table, from source to target, exactly once:
 *
 *   source: BEGIN, snapshot, LOCK t, check ── COPY (ctid range) TO ─┐                  ┌─ COMMIT (unlock)
 *   target: BEGIN, claim in the ledger ────── COPY t FROM ◄─frames──┘─ counts ─ COMMIT ┘
 *
 * COPY OUT and COPY IN have the same frames, so bytes are passed on as they come; only the 5-byte headers
 * are walked. The part and its ledger row commit together.
 */
import { copyFormat, type Part, partCondition } from '#src/core/copy-plan.ts';
import { copiedColumns, quoteIdentifier, quoteLiteral, quoteTable } from '#src/core/table.ts';
import type { Table } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { WireConnection, WireResult } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { rowsOfCommandTag } from '#src/wire/postgres/backend.ts';
import { copyDone } from '#src/wire/postgres/frontend.ts';

import { claimPartSql, type Counts, type PartKey, recordPartSql } from './copy-ledger.ts';
import { pumpCopy } from './copy-pump.ts';
import type { HeldSnapshot } from './generations.ts';
import { SNAPSHOT_GONE_SQLSTATES } from './snapshot-gone.ts';

export type PartJob = {
  readonly shadowId: string;
  readonly table: Table;
  readonly part: Part;
  readonly held: HeldSnapshot;
  /** Rows and bytes so far. */
  readonly advance: (rows: number, bytes: number) => void;
  readonly failpoints: Failpoints;
};

/** Both ends of a worker. Whoever gets an error destroys both: no half state outlives it. */
export type CopyPair = { readonly source: WireConnection; readonly target: WireConnection };

const TABLE_GONE_SQLSTATES = new Set(['42P01', '42703', '3F000']); // undefined table, column, schema

/**
 * Copy the part and commit it with its ledger row.
 *
 * Throws TABLE_REWRITTEN (trap 2) and SNAPSHOT_LOST, after which the table must start again; TABLE_CHANGED,
 * COPY_MISMATCH, LEASE_LOST; and what the servers answer. The connections are then in any state.
 */
export async function copyPart(pair: CopyPair, job: PartJob): Promise<Counts> {
  const { source, target } = pair;
  const [copied] = await Promise.all([claimPart(target, job), beginSource(source, job)]);
  if (copied !== undefined) {
    await Promise.all([target.query('ROLLBACK'), source.query('ROLLBACK')]);
    return copied;
  }
  job.failpoints.hit('copy.afterClaim');
  const counts = await transfer(pair, job);
  job.failpoints.hit('copy.afterSourceCopy');
  await target.query(recordPartSql(keyOf(job), counts));
  job.failpoints.hit('copy.beforePartCommit');
  await target.query('COMMIT');
  job.failpoints.hit('copy.afterPartCommit');
  await source.query('COMMIT');
  return counts;
}

/**
 * Open the source's transaction on the snapshot and lock the table. The lock is what keeps the answer of
 * the checks true until COMMIT: whatever rewrites or renames needs ACCESS EXCLUSIVE. It is held for one
 * part only, not for the whole copy, which would queue production's DDL for hours.
 */
async function beginSource(source: WireConnection, job: PartJob): Promise<void> {
  const { table, held } = job;
  const results = await importSnapshot(source, job);
  const [snapshot, fileThen, fileNow, names, columnsThen] = results.at(-1)?.rows[0] ?? [];
  if (snapshot !== held.snapshot) {
    throw new OperatorError(
      'SNAPSHOT_LOST',
      `the snapshot of generation ${held.generation} is gone`,
    );
  }
  const columns = copiedColumns(table);
  const { schema, name } = table;
  const expected = [[schema, name], ...columns.map((column) => [schema, name, column.name])];
  if (JSON.stringify(JSON.parse(names ?? 'null')) !== JSON.stringify(expected)) {
    throw new OperatorError('TABLE_CHANGED', `${nameOf(table)} or a column of it was renamed`);
  }
  // Trap 2: the snapshot's rows are in the file that the snapshot knows, and COPY reads today's file.
  if (fileNow === null || fileThen !== fileNow) {
    throw new OperatorError('TABLE_REWRITTEN', `${nameOf(table)} was rewritten or truncated`);
  }
  // What the snapshot has beyond our list is not in the stream either, which begins behind it. A column that
  // has more digits by now than on the target would be rounded there.
  const recorded = columns.map((column) => [column.name, column.typeOid, column.typeName]);
  if (JSON.stringify(JSON.parse(columnsThen ?? '[]')) !== JSON.stringify(recorded)) {
    throw new OperatorError(
      'TABLE_CHANGED',
      `${nameOf(table)} had other columns when its copy's snapshot was taken than it has on record`,
    );
  }
}

async function importSnapshot(
  source: WireConnection,
  job: PartJob,
): Promise<readonly WireResult[]> {
  for (const exported of job.held.exported) {
    try {
      return await source.query(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET TRANSACTION SNAPSHOT ${quoteLiteral(exported)};
        LOCK TABLE ONLY ${quoteTable(job.table)} IN ACCESS SHARE MODE;
        ${checkSql(job.table)}`);
    } catch (error) {
      const sqlstate = sqlstateOf(error) ?? '';
      if (TABLE_GONE_SQLSTATES.has(sqlstate)) {
        throw new OperatorError('TABLE_CHANGED', `${nameOf(job.table)} was renamed or dropped`, {
          detail: { sqlstate },
        });
      }
      if (!SNAPSHOT_GONE_SQLSTATES.has(sqlstate)) throw error;
      await source.query('ROLLBACK');
    }
  }
  throw new OperatorError(
    'SNAPSHOT_LOST',
    `no keeper of generation ${job.held.generation} is left`,
  );
}

/**
 * pg_class and pg_attribute are read as of the snapshot; pg_relation_filenode and pg_identify_object_as_address answer as of
 * now. The latter also tells that each name still means the attribute number that it did.
 */
function checkSql(table: Table): string {
  const attnums = [0, ...copiedColumns(table).map((column) => column.attnum)].join(',');
  const excluded = table.excludedColumns.map((name) => `AND attname <> ${quoteLiteral(name)}`);
  return `SELECT pg_current_snapshot()::text,
      (SELECT relfilenode FROM pg_class WHERE oid = ${table.oid})::text,
      pg_relation_filenode(${table.oid})::text,
      (SELECT json_agg(address.object_names ORDER BY u.position)
         FROM unnest('{${attnums}}'::integer[]) WITH ORDINALITY AS u (attnum, position),
              pg_identify_object_as_address(1259, ${table.oid}, u.attnum) AS address)::text,
      (SELECT json_agg(json_build_array(attname, atttypid::bigint, format_type(atttypid, atttypmod))
                        ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = ${table.oid} AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
              ${excluded.join(' ')})::text`;
}

/** Begin the target's transaction. Undefined, or the counts of a part that turns out to be copied. */
async function claimPart(target: WireConnection, job: PartJob): Promise<Counts | undefined> {
  const [, relation, claim, part] = await target.query(claimPartSql(keyOf(job)));
  if (relation?.rows.length !== 1) {
    const table = nameOf(job.table);
    throw new OperatorError('LEASE_LOST', `another process took over the copy of ${table}`);
  }
  if (claim?.rows.length === 1) return undefined;
  const [rows, bytes] = part?.rows[0] ?? [];
  return { rows: Number(rows), bytes: Number(bytes) };
}

function keyOf(job: PartJob): PartKey {
  const { shadowId, table, held, part } = job;
  return { shadowId, oid: table.oid, generation: held.generation, number: part.number };
}

async function transfer(pair: CopyPair, job: PartJob): Promise<Counts> {
  const { source, target } = pair;
  const { table } = job;
  const columns = copiedColumns(table).map((column) => quoteIdentifier(column.name));
  const format = copyFormat(table);
  await target.beginCopy(
    // Without a list COPY takes all columns that are not generated: none, here.
    `COPY ${quoteTable(table)} ${columns.length === 0 ? '' : `(${columns.join(', ')}) `}` +
      `FROM STDIN (FORMAT ${format})`,
  );
  await source.beginCopy(
    `COPY (SELECT ${columns.join(', ')} FROM ONLY ${quoteTable(table)}` +
      ` WHERE ${partCondition(job.part, table.rowFilter)}) TO STDOUT (FORMAT ${format})`,
  );
  // Read at once, so that a target that refuses a row is noticed while the source still sends.
  let targetFailure: unknown;
  const written = target.readUntilReady();
  written.catch((error: unknown) => {
    targetFailure = error;
    source.destroy();
  });
  try {
    const bytes = await pumpCopy(pair, job.advance);
    const sent = rowsOf(await source.readUntilReady());
    await target.write(copyDone());
    const stored = rowsOf(await written);
    if (sent === stored) return { rows: sent, bytes };
    throw new OperatorError(
      'COPY_MISMATCH',
      `${nameOf(table)}: the source sent ${sent} rows, the target stored ${stored}`,
    );
  } catch (error) {
    target.destroy();
    throw targetFailure ?? error;
  }
}

function rowsOf(results: readonly WireResult[]): number {
  return rowsOfCommandTag(results.at(-1)?.commandTag ?? '');
}

function nameOf(table: Table): string {
  return `${table.schema}.${table.name}`;
}
