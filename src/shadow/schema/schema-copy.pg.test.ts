import { expect, test } from 'vitest';

import { type Entry, parseEntries } from '#src/core/schema-entry.ts';
import { parseSchemaScript, type SchemaScript, STAGES } from '#src/core/schema-script.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { readRelations } from '#src/db/postgres/catalog.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import { dumpSchema } from '#src/db/postgres/schema-dump.ts';
import { systemClock } from '#src/lib/clock.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createLogger } from '#src/lib/log.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from '#test/postgres.ts';
import { richSchema } from '#test/rich-schema.ts';

import { readDumpExclusions } from './exclusions.ts';
import { readPopulatedViews, restorePreData } from './restore.ts';
import { runSteps, type RunStepsOptions } from './run-steps.ts';

const SHADOW_ID = '0badcafe';

async function dump(db: TestDatabase): Promise<string> {
  return dumpSchema({
    endpoint: db.endpoint,
    exclude: { relations: [], schemas: [] },
    signal: AbortSignal.timeout(20_000),
    timeoutMs: 20_000,
  });
}

async function readScript(source: TestDatabase, selection: Selection): Promise<SchemaScript> {
  const selected = await readRelations(source.session, selection);
  const script = await dumpSchema({
    endpoint: source.endpoint,
    exclude: await readDumpExclusions(source.session, selected),
    signal: AbortSignal.timeout(20_000),
    timeoutMs: 20_000,
  });
  return parseSchemaScript(script, { populated: await readPopulatedViews(source.session) });
}

async function restore(target: TestDatabase, script: SchemaScript): Promise<void> {
  await target.session.query(LEDGER_SCHEMA);
  await restorePreData({
    target: target.session,
    shadowId: SHADOW_ID,
    script,
    record: async () => undefined,
  });
}

function stepOptions(
  target: TestDatabase,
  changes: Partial<RunStepsOptions> = {},
): RunStepsOptions {
  return {
    target: target.endpoint,
    shadowId: SHADOW_ID,
    stages: STAGES,
    jobs: 3,
    report: () => undefined,
    failpoints: createFailpoints(undefined),
    clock: systemClock,
    log: createLogger('silent'),
    signal: AbortSignal.timeout(30_000),
    ...changes,
  };
}

async function undoAdjustments(target: TestDatabase): Promise<readonly string[]> {
  const rows = await target.session.query(
    'SELECT object, undo FROM understudy.adjustment ORDER BY 1',
  );
  await target.session.query(rows.map((row) => row['undo']).join(';'));
  return rows.map((row) => row['object'] ?? '');
}

/** By kind and name, since two servers may list unrelated objects in another order. */
function statements(script: string, keep: (entry: Entry) => boolean = () => true) {
  return Object.fromEntries(
    parseEntries(script)
      .filter((entry) => keep(entry))
      .map((entry) => [`${entry.kind} ${entry.object}`, entry.statements]),
  );
}

const isRendered = (entry: Entry) =>
  /VIEW|RULE|FUNCTION/.test(entry.kind) ||
  entry.statements.some((text) => text.includes('_not_null'));

test.each<[TestVersion, TestVersion]>([
  [14, 18],
  [15, 15],
  [16, 17],
  [18, 18],
])('a schema of everything is the same on both sides, %i to %i', async (from, to) => {
  await using source = await createTestDatabase(from, richSchema(from));
  await using target = await createTestDatabase(to);
  const script = await readScript(source, EVERYTHING);
  expect(script.skipped).toEqual([]);
  await restore(target, script);
  const reported: string[] = [];
  await runSteps(
    stepOptions(target, {
      report: (event) => {
        if (event.type === 'stepFinished') reported.push(`${event.done}/${event.total}`);
      },
    }),
  );
  expect(reported.at(-1)).toBe(`${script.steps.length}/${script.steps.length}`);

  const adjusted = await undoAdjustments(target);
  expect(adjusted).toEqual(
    expect.arrayContaining([
      'identity "shop"."customers"."id"',
      'rule "always_rule" on "shop"."scratch"',
      'trigger "always; fires" on "shop"."items"',
      'trigger "on_replica" on "shop"."items"',
      'trigger "per_event" on "shop"."events_rest"',
    ]),
  );
  const [before, after] = await Promise.all([dump(source), dump(target)]);
  // Between majors the text of some is rendered differently: then all objects, and the others' text.
  const isCompared = (entry: Entry) => from === to || !isRendered(entry);
  expect(Object.keys(statements(after)).toSorted()).toEqual(
    Object.keys(statements(before)).toSorted(),
  );
  expect(statements(after, isCompared)).toEqual(statements(before, isCompared));
  expect(await readPopulatedViews(target.session)).toEqual(
    expect.arrayContaining([...(await readPopulatedViews(source.session))]),
  );
});
