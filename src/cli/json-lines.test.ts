import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { EXAMPLE_EVENTS, EXAMPLE_RESULTS } from '#test/example-lines.ts';

/** Sections and the fields of their tables, as docs/json.md has them. */
function documentedFields(): Record<string, string[]> {
  const text = readFileSync(new URL('../../docs/json.md', import.meta.url), 'utf8');
  const fields: Record<string, string[]> = {};
  for (const section of text.split(/^## /m).slice(1)) {
    const name = section.split('\n', 1)[0]!;
    fields[name] = [...section.matchAll(/^\| `(\w+)`/gm)].map((match) => match[1]!);
  }
  return fields;
}

test('docs/json.md describes every type of line and every field, and no other', () => {
  const lines = Object.values({ ...EXAMPLE_EVENTS, ...EXAMPLE_RESULTS });
  const printed = lines.map((line) => [
    line.type,
    Object.keys(line)
      .filter((field) => field !== 'type')
      .toSorted(),
  ]);
  const documented = Object.entries(documentedFields()).map(([type, fields]) => [
    type,
    fields.toSorted(),
  ]);
  expect(Object.fromEntries(documented)).toEqual(Object.fromEntries(printed));
});
