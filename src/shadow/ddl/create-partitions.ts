import type { Endpoint } from '#src/core/endpoint.ts';
import type { Entry } from '#src/core/schema-entry.ts';
import { parseSchemaScript, type SchemaScript, type Step } from '#src/core/schema-script.ts';
import type { TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { dumpSchema } from '#src/db/postgres/schema-dump/schema-dump.ts';
import { relaxIdentity, relaxRowSecurity, silenceTriggers } from '#src/shadow/schema/adjust.ts';
import { restoreError } from '#src/shadow/schema/restore.ts';

const DUMP_TIMEOUT_MS = 60_000;
/** Readers of the target queue behind a lock that waits. */
const LOCK_TIMEOUT_MS = 2_000;

/** How these tables of the source, partitions at any level, are defined: as pg_dump says it. */
export async function dumpPartitions(options: {
  readonly source: Endpoint;
  readonly tables: readonly TableName[];
  readonly signal: AbortSignal;
}): Promise<SchemaScript> {
  const { source, tables, signal } = options;
  const dump = await dumpSchema({
    endpoint: source,
    exclude: { schemas: [], relations: [] },
    only: tables,
    signal,
    timeoutMs: DUMP_TIMEOUT_MS,
  });
  return parseSchemaScript(dump, { populated: [] });
}

/**
 * Create the partitions of a dump on the target, in the caller's transaction. They are attached when they
 * have their own indexes, which then become those of the parent's: with the names of the source, and
 * without a lock on the parent that its readers would wait for.
 *
 * Throws SCHEMA_RESTORE_FAILED, also where a lock was not to be had, or where the target's default
 * partition still holds rows that the stream will take out of it.
 */
export async function createPartitions(
  target: Session,
  shadowId: string,
  script: SchemaScript,
): Promise<void> {
  await target.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
  await target.query(
    `SET LOCAL check_function_bodies = off; SET LOCAL client_min_messages = warning`,
  );
  for (const entry of inOrder(script)) {
    try {
      await target.query(entry.statements.join(';\n'));
    } catch (error) {
      throw restoreError(entry, error);
    }
  }
  await relaxIdentity(target, shadowId, script.tables);
  await relaxRowSecurity(target, shadowId, script.tables);
  for (const table of script.tables) await silenceTriggers(target, shadowId, table);
}

/** What the parent's index does by itself when the table is attached, and what needs no new table. */
const IMPLIED: ReadonlySet<string> = new Set(['INDEX ATTACH', 'SCHEMA']);

function inOrder({ preData, steps }: SchemaScript): readonly Entry[] {
  const kept = steps.filter(({ stage, kind }) => stage !== 'analyze' && !IMPLIED.has(kind));
  return [
    ...preData.filter((entry) => !isAttach(entry) && !IMPLIED.has(entry.kind)),
    ...kept.filter(isOfIndex).map(entryOf),
    ...preData.filter(isAttach),
    ...kept.filter((step) => !isOfIndex(step)).map(entryOf),
  ];
}

function isAttach(entry: Entry): boolean {
  return entry.kind === 'TABLE ATTACH';
}

function isOfIndex(step: Step): boolean {
  return step.kind === 'INDEX' || step.kind === 'CONSTRAINT';
}

function entryOf(step: Step): Entry {
  return { ...step, statements: [step.statement] };
}
