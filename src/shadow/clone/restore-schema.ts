import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import type { OwnersPolicy } from '#src/core/schema-owners.ts';
import { parseSchemaScript, type SchemaScript } from '#src/core/schema-script.ts';
import { quoteTable, type TableName } from '#src/core/table.ts';
import type { SelectedRelations } from '#src/db/postgres/catalog/catalog.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { dumpSchema } from '#src/db/postgres/schema-dump/schema-dump.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { namesOfKeys, readBrokenKeys } from '#src/shadow/schema/broken-keys.ts';
import { readDumpExclusions } from '#src/shadow/schema/exclusions.ts';
import { withOwnership } from '#src/shadow/schema/ownership.ts';
import {
  findExistingRelations,
  isPreDataRestored,
  readPopulatedViews,
  restorePreData,
} from '#src/shadow/schema/restore.ts';

const SCHEMA_TIMEOUT_MS = 10 * 60_000;
const NAMED_MAX = 5;

export type RestoreSchemaOptions = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly control: Session;
  readonly shadowId: string;
  readonly tables: SelectedRelations;
  /** Those of the ledger: what must not be on the target yet. */
  readonly dataset: readonly TableName[];
  /** Whether owners and grants go along, as far as the target has the roles. */
  readonly owners: OwnersPolicy;
  /** An exported snapshot to read the definitions at; undefined for now. */
  readonly snapshot: string | undefined;
  readonly report: Report;
  readonly failpoints: Failpoints;
  readonly signal: AbortSignal;
};

/**
 * Bring the definitions over, unless an earlier run has: all that goes before the data at once, the rest
 * as steps in the ledger. Throws TARGET_NOT_EMPTY, SCHEMA_DUMP_FAILED, SCHEMA_RESTORE_FAILED.
 */
export async function restoreSchema(options: RestoreSchemaOptions): Promise<void> {
  const { target, control, shadowId, failpoints, report } = options;
  if (await isPreDataRestored(control, shadowId)) return;
  await requireEmpty(control, options.dataset);
  const script = await withOwnership(control, await readScript(options));
  for (const { kind, object, reason } of script.skipped) {
    const message = `${kind.toLowerCase()} ${object} is not carried over: ${reason}`;
    report({ type: 'notice', level: 'info', message });
  }
  await using session = await openSession(target, {
    applicationName: `understudy ${shadowId} schema`,
  });
  failpoints.hit('schema.beforeCommit');
  await restorePreData({ target: session, shadowId, script, dataset: options.tables.tables });
  failpoints.hit('schema.afterCommit');
}

async function requireEmpty(target: Session, dataset: readonly TableName[]): Promise<void> {
  const taken = await findExistingRelations(target, dataset);
  if (taken.length === 0) return;
  const named = taken.slice(0, NAMED_MAX).map(quoteTable).join(', ');
  const more = taken.length > NAMED_MAX ? ', …' : '';
  throw new OperatorError('TARGET_NOT_EMPTY', `the target has ${named}${more} already`);
}

async function readScript(options: RestoreSchemaOptions): Promise<SchemaScript> {
  const { source, shadowId, tables, snapshot, signal } = options;
  await using session = await openSession(source, { applicationName: `understudy ${shadowId}` });
  const exclude = await readDumpExclusions(session, tables);
  const populated = await readPopulatedViews(session);
  const unvalidated = namesOfKeys(await readBrokenKeys(session, tables.tables));
  const dump = await dumpSchema({
    endpoint: source,
    exclude,
    isWithOwners: options.owners === 'keep',
    signal,
    timeoutMs: SCHEMA_TIMEOUT_MS,
    ...(snapshot === undefined ? {} : { snapshot }),
  });
  return parseSchemaScript(dump, { populated, unvalidated });
}
