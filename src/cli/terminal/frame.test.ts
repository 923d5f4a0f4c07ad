import { expect, test } from 'vitest';

import type { CliEvent } from '#src/cli/events.ts';
import { EXAMPLE_EVENTS } from '#test/example-lines.ts';

import { frameLines } from './frame.ts';
import { paintLine } from './line.ts';
import { plainPaint } from './paint.ts';
import { createView, observe } from './view.ts';

function draw(events: readonly (readonly [atMs: number, event: CliEvent])[], columns = 80): string {
  const view = createView(0);
  let nowMs = 0;
  for (const [atMs, event] of events) {
    nowMs = atMs;
    observe(view, event, nowMs);
  }
  return frameLines(view, { nowMs, columns, title: 'understudy clone' })
    .map((line) => paintLine(line, columns, plainPaint))
    .join('\n');
}

const phase = (name: 'preparing' | 'copying' | 'indexing' | 'following'): CliEvent => ({
  type: 'phaseStarted',
  phase: name,
  shadowId: 'a1b2c3d4',
});

test('a copy shows what is done, its speed and when it ends', () => {
  const copy = EXAMPLE_EVENTS.copyProgress;
  expect(
    draw([
      [0, phase('preparing')],
      [1500, phase('copying')],
      [1500, { ...copy, tablesCopied: 0, rows: 0, bytes: 0, heapBytes: 0 }],
      [2500, EXAMPLE_EVENTS.tableProgress],
      [3500, copy],
    ]),
  ).toBe(
    [
      'understudy clone  shadow a1b2c3d4  3.5 s',
      '✔ preparing      1.5 s   ',
      '▸ copying        2.0 s   3 of 29 tables, 150,000 rows, 38 MB',
      '  copy       ██████████░░░░░░░░░░  50 %  75,000 rows/s  19 MB/s  ETA 2.0 s',
      '    shop."Order Line"            █████░░░░░ 1,200 rows',
    ].join('\n'),
  );
});

test('a follower shows the ladder, the budget and the verdict (pain 16)', () => {
  const { lag } = EXAMPLE_EVENTS;
  expect(
    draw([
      [0, phase('following')],
      [0, lag],
      [1000, { ...lag, transactionsApplied: 1620, rowsApplied: 5000 }],
      [1000, EXAMPLE_EVENTS.verified],
    ]),
  ).toBe(
    [
      'understudy clone  shadow a1b2c3d4  1.0 s',
      '▸ following      1.0 s   1,620 transactions, 5,000 rows applied',
      'lag          3.0 kB, 12 ms',
      '  source head  0/5A3B2C10',
      '  sent         0/5A3B2C10',
      '  received     0/5A3B2B00  -272 B',
      '  durable      0/5A3B2A00  -528 B',
      '  applied      0/5A3B2000  -3.0 kB   240 tx/s  814 rows/s',
      '  source WAL   11 MB of 10 GB retained, spool 32 kB',
      'verified     ✔ both sides are the same at 0/5A721A90',
      '             full: 29 tables, 300,123 rows, 410 of 410 chunks read in 1.4 s',
    ].join('\n'),
  );
});

test('differences and what could not be compared are named', () => {
  const verified = { ...EXAMPLE_EVENTS.verified, differences: 2, unverified: ['shop.big.lo'] };
  const picture = draw([[0, verified]]);
  expect(picture).toContain('✘ 2 differences');
  expect(picture).toContain('not verified: shop.big.lo');
});

test('growth of the retained WAL says when the budget is used up (trap 8)', () => {
  const { lag } = EXAMPLE_EVENTS;
  const picture = draw([
    [0, { ...lag, sourceWalBytes: 9_000_000, sourceWalBytesMax: 61_000_000 }],
    [1000, { ...lag, sourceWalBytes: 10_000_000, sourceWalBytesMax: 70_000_000 }],
  ]);
  expect(picture).toContain('budget used up in 1 m 00 s');
});

test.each([20, 50, 80, 200])('no line is wider than a terminal of %d columns', (columns) => {
  const events = Object.values(EXAMPLE_EVENTS).map((event) => [0, event] as const);
  const lines = draw([[0, phase('copying')], ...events], columns).split('\n');
  expect(lines.length).toBeGreaterThan(10);
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(columns);
});

test('a table that moves on leaves the picture', () => {
  const table = EXAMPLE_EVENTS.tableProgress;
  const copied = draw([
    [0, phase('copying')],
    [0, EXAMPLE_EVENTS.copyProgress],
    [0, table],
    [1, { ...table, state: 'copied' }],
  ]);
  expect(copied).not.toContain('Order Line');
});
