import type { Entry } from '#src/core/schema-entry.ts';
import type { SchemaScript, Step } from '#src/core/schema-script.ts';
import type { Table, TableName } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { relaxExcluded } from './adjust-excluded.ts';
import { relaxIdentity, relaxRowSecurity } from './adjust.ts';
import { nameOf } from './rows.ts';

export type RestoreOptions = {
  readonly target: Session;
  readonly shadowId: string;
  readonly script: SchemaScript;
  /** As the source has them, with what a filter leaves out; none when there is no filter. */
  readonly dataset?: readonly Table[];
};

/** Entries that go to the server together; one that fails is then found by itself. */
const BATCH_ENTRIES = 50;
/** transaction_timeout exists from here on; a role's own would end a long transaction. */
const TRANSACTION_TIMEOUT_VERSION = 170_000;

/** As pg_dump's own header has it, but gone with the transaction. */
const SETTINGS = `
SET LOCAL check_function_bodies = off;
SET LOCAL standard_conforming_strings = on;
SET LOCAL default_tablespace = '';
SET LOCAL default_table_access_method = heap;
SET LOCAL client_min_messages = warning`;

/**
 * Create everything that goes before the data, make the adjustments, and record the steps that come
 * after it. One transaction: after a crash either nothing of it exists or all.
 *
 * Throws SCHEMA_RESTORE_FAILED, which names the object, or CONNECTION_LOST.
 */
export async function restorePreData(options: RestoreOptions): Promise<void> {
  const { target, shadowId, script } = options;
  await target.transaction(async () => {
    await target.query(SETTINGS);
    if (target.serverVersion >= TRANSACTION_TIMEOUT_VERSION) {
      await target.query('SET LOCAL transaction_timeout = 0');
    }
    for (let at = 0; at < script.preData.length; at += BATCH_ENTRIES) {
      await restoreBatch(target, script.preData.slice(at, at + BATCH_ENTRIES));
    }
    await relaxIdentity(target, shadowId, script.tables);
    await relaxRowSecurity(target, shadowId, script.tables);
    await relaxExcluded(target, shadowId, options.dataset ?? []);
    await insertSteps(target, shadowId, script.steps);
  });
}

/** Whether `restorePreData` has been committed for this shadow. There is a step for each table at least. */
export async function isPreDataRestored(target: Session, shadowId: string): Promise<boolean> {
  const rows = await target.query('SELECT FROM understudy.step WHERE shadow_id = $1 LIMIT 1', [
    shadowId,
  ]);
  return rows.length > 0;
}

/** Those of `names` that exist on the target: tables, views, sequences, indexes. Ask before pre-data. */
export async function findExistingRelations(
  target: Session,
  names: readonly TableName[],
): Promise<readonly TableName[]> {
  const rows = await target.query(
    `SELECT n.nspname, c.relname
       FROM unnest($1::text[], $2::text[]) AS t (nspname, relname)
       JOIN pg_namespace n USING (nspname)
       JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
      ORDER BY 1, 2`,
    [names.map((name) => name.schema), names.map((name) => name.name)],
  );
  return rows.map(nameOf);
}

/** The source's materialised views that hold data. */
export async function readPopulatedViews(source: Session): Promise<readonly TableName[]> {
  const rows = await source.query(
    `SELECT n.nspname, c.relname
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'm' AND c.relispopulated`,
  );
  return rows.map(nameOf);
}

/** One round trip; when it fails, one for each entry, to know which of them it is. */
async function restoreBatch(target: Session, entries: readonly Entry[]): Promise<void> {
  try {
    const statements = entries.flatMap((entry) => entry.statements.map(tolerant));
    await target.query(['SAVEPOINT batch', ...statements, 'RELEASE SAVEPOINT batch'].join(';\n'));
  } catch (error) {
    if (sqlstateOf(error) === undefined) throw error;
    await target.query('ROLLBACK TO SAVEPOINT batch');
    for (const entry of entries) await restoreEntry(target, entry);
  }
}

async function restoreEntry(target: Session, entry: Entry): Promise<void> {
  try {
    await target.query(entry.statements.map(tolerant).join(';\n'));
  } catch (error) {
    throw restoreError(entry, error);
  }
}

/** An empty schema of that name harms nobody, and operators do make one to hold grants. */
function tolerant(statement: string): string {
  return statement.replace(/^CREATE SCHEMA (?!IF )/, 'CREATE SCHEMA IF NOT EXISTS ');
}

/** A refused definition as SCHEMA_RESTORE_FAILED; a lost connection or an abort stays what it is. */
export function restoreError(
  entry: { readonly kind: string; readonly object: string },
  error: unknown,
): unknown {
  const sqlstate = sqlstateOf(error);
  if (sqlstate === undefined || !(error instanceof OperatorError)) return error;
  if (error.code === 'CONNECTION_LOST') return error;
  return new OperatorError(
    'SCHEMA_RESTORE_FAILED',
    `${entry.kind.toLowerCase()} ${entry.object} (SQLSTATE ${sqlstate}): ${error.message}`,
    { detail: { sqlstate, kind: entry.kind, object: entry.object }, cause: error },
  );
}

async function insertSteps(
  target: Session,
  shadowId: string,
  steps: readonly Step[],
): Promise<void> {
  const inserted = await target.execute(
    `INSERT INTO understudy.step (shadow_id, step, stage, kind, object, statement, schema_name, table_name)
     SELECT $1, step, stage, kind, object, statement, nullif(schema_name, ''), nullif(table_name, '')
       FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
            WITH ORDINALITY AS s (stage, kind, object, statement, schema_name, table_name, step)`,
    [
      shadowId,
      steps.map((step) => step.stage),
      steps.map((step) => step.kind),
      steps.map((step) => step.object),
      steps.map((step) => step.statement),
      steps.map((step) => step.table?.schema ?? ''),
      steps.map((step) => step.table?.name ?? ''),
    ],
  );
  assert(inserted === steps.length, `recorded ${inserted} of ${steps.length} steps`);
}
