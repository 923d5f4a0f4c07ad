import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { CHECKS } from './checks.ts';

test('docs/checks.md has a section for each check, in the same order and with its severity', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../docs/checks.md'), 'utf8');
  const sections = [...text.matchAll(/^## (.*)\n\n\*\*(\w+)\.?\*\*/gm)];
  expect(sections.map(([, id, severity]) => [id, severity])).toEqual(Object.entries(CHECKS));
  expect(text.match(/^## /gm)).toHaveLength(sections.length);
});

test('ids are kebab-case, since scripts match on them', () => {
  for (const id of Object.keys(CHECKS)) expect(id).toMatch(/^[a-z0-9]+(-[a-z0-9]+)*$/);
});
