import { expect, test } from 'vitest';

import type { Difference } from '#src/core/difference.ts';

import { differenceLines } from './differences.ts';
import { plainPaint } from './paint.ts';

const line = { schema: 'shop', name: 'Order Line' };

test('differing rows are a table of table, kind, key and columns', () => {
  const listed: readonly Difference[] = [
    { kind: 'changed', table: line, key: { order: '7', no: '1' }, columns: ['price', 'at'] },
    { kind: 'missing', table: { schema: 'crm', name: 'note' }, key: { id: 'a\nb' }, columns: [] },
    { kind: 'extra', table: { schema: 'crm', name: 'log' }, key: {}, columns: [] },
    { kind: 'sequence', table: { schema: 'crm', name: 's' }, cause: 'the target is behind' },
  ];
  expect(differenceLines({ listed, differences: 4 }, plainPaint).slice(0, -2)).toEqual([
    '',
    'table              kind      key                   columns',
    'shop."Order Line"  changed   order=7 no=1          price, at',
    'crm.note           missing   id=a�b',
    'crm.log            extra     (no key)',
    'crm.s              sequence  the target is behind',
  ]);
});

test('of many differences the first ones are shown, and all are counted', () => {
  const listed = Array.from({ length: 200 }, (_, id): Difference => ({
    kind: 'extra',
    table: line,
    key: { id: String(id) },
    columns: [],
  }));
  const lines = differenceLines({ listed, differences: 40_000 }, plainPaint);
  expect(lines).toHaveLength(45);
  expect(lines.at(-3)).toBe('… and 39,960 differences more');
  expect(lines.at(-1)).toMatch(/^40,000 in all/);
});
