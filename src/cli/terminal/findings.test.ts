import { expect, test } from 'vitest';

import type { Finding } from '#src/shadow/check/finding.ts';

import { checkedText, findingLines } from './findings.ts';
import { plainPaint } from './paint.ts';

const FINDINGS: readonly Finding[] = [
  {
    id: 'spare-room',
    severity: 'warn',
    object: 'server',
    cause: 'the source has 3 slots left, and one is needed for each verification that runs',
    fix: { runOn: 'operator', text: 'Raise max_replication_slots and restart the source.' },
  },
  {
    id: 'no-key',
    severity: 'refuse',
    object: 'table "shop"."log"',
    cause: 'it has no primary key',
    fix: { runOn: 'source', text: 'ALTER TABLE "shop"."log"\n  ADD PRIMARY KEY (id);' },
  },
  { id: 'triggers', severity: 'info', object: 'trigger "t"', cause: 'it is off', fix: undefined },
];

test('findings are grouped, the worst first, with SQL as it can be run', () => {
  expect(findingLines(FINDINGS, { paint: plainPaint, columns: 60 })).toEqual([
    'Refused: a shadow cannot be made before this is mended',
    '',
    '  table "shop"."log"  no-key',
    '    it has no primary key',
    '    fix, on the source:',
    '      ALTER TABLE "shop"."log"',
    '        ADD PRIMARY KEY (id);',
    '',
    'Warnings: this may matter',
    '',
    '  server  spare-room',
    '    the source has 3 slots left, and one is needed for each',
    '    verification that runs',
    '    fix:',
    '      Raise max_replication_slots and restart the source.',
    '',
    'For information: this differs on a shadow, and is meant to',
    '',
    '  trigger "t"  triggers',
    '    it is off',
    '',
  ]);
});

test('the summary says whether a shadow can be made', () => {
  expect(checkedText(29, FINDINGS)).toBe(
    '29 tables checked: not ready for a shadow (1 refusal, 1 warning)',
  );
  expect(checkedText(1, [])).toBe('1 table checked: ready for a shadow (0 refusals, 0 warnings)');
});
