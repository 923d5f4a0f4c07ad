import { expect, test } from 'vitest';

import { type Entry, parseEntries } from '#src/core/schema-entry.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from '#test/postgres.ts';
import { richSchema } from '#test/rich-schema.ts';
import { dump, readScript, restore, stepOptions } from '#test/schema-copy.ts';

import { readPopulatedViews } from './restore.ts';
import { runSteps } from './run-steps.ts';

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
      .filter((entry) => !entry.object.endsWith('rich_ddl') && keep(entry))
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
])(
  'a schema of everything is the same on both sides, %i to %i (trap 4, complaint 19)',
  async (from, to) => {
    await using source = await createTestDatabase(from, richSchema(from));
    await using target = await createTestDatabase(to);
    const script = await readScript(source);
    expect(script.skipped.map((skipped) => skipped.object)).toEqual(['rich_ddl']);
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
    expect(Object.keys(statements(before)).length).toBeGreaterThan(150);
    expect(Object.keys(statements(after)).toSorted()).toEqual(
      Object.keys(statements(before)).toSorted(),
    );
    expect(statements(after, isCompared)).toEqual(statements(before, isCompared));
    expect(await readPopulatedViews(target.session)).toEqual(
      expect.arrayContaining([...(await readPopulatedViews(source.session))]),
    );
  },
);
