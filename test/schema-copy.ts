import { type SchemaScript, parseSchemaScript, STAGES } from '#src/core/schema-script.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { dumpSchema } from '#src/db/postgres/schema-dump/schema-dump.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { readDumpExclusions } from '#src/shadow/schema/exclusions.ts';
import { readPopulatedViews, restorePreData } from '#src/shadow/schema/restore.ts';
import type { RunStepsOptions } from '#src/shadow/schema/run-steps.ts';

import { recordingLogger, recordLine } from './output.ts';
import type { TestDatabase } from './postgres.ts';

export const SHADOW_ID = '0badcafe';

export async function dump(db: TestDatabase): Promise<string> {
  return dumpSchema({
    endpoint: db.endpoint,
    exclude: { relations: [], schemas: [] },
    signal: AbortSignal.timeout(20_000),
    timeoutMs: 20_000,
  });
}

export async function readScript(
  source: TestDatabase,
  selection: Selection = EVERYTHING,
): Promise<SchemaScript> {
  const selected = await readRelations(source.session, selection);
  const script = await dumpSchema({
    endpoint: source.endpoint,
    exclude: await readDumpExclusions(source.session, selected),
    signal: AbortSignal.timeout(20_000),
    timeoutMs: 20_000,
  });
  return parseSchemaScript(script, { populated: await readPopulatedViews(source.session) });
}

export async function restore(target: TestDatabase, script: SchemaScript): Promise<void> {
  await target.session.query(LEDGER_SCHEMA);
  await restorePreData({
    target: target.session,
    shadowId: SHADOW_ID,
    script,
  });
}

export function stepOptions(
  target: TestDatabase,
  changes: Partial<RunStepsOptions> = {},
): RunStepsOptions {
  return {
    target: target.endpoint,
    shadowId: SHADOW_ID,
    stages: STAGES,
    jobs: 3,
    report: (event) => recordLine('events', event),
    failpoints: createFailpoints(undefined),
    clock: systemClock,
    log: recordingLogger(),
    signal: AbortSignal.timeout(30_000),
    ...changes,
  };
}
