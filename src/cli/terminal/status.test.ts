import { expect, test } from 'vitest';

import type { ShadowStatus } from '#src/shadow/status.ts';
import { EXAMPLE_EVENTS } from '#test/example-lines.ts';

import { plainPaint } from './paint.ts';
import { statusLines } from './status.ts';

const FOLLOWING: ShadowStatus = {
  shadowId: 'a1b2c3d4',
  source: 'me@production:5432/shop',
  phase: 'following',
  isFollowed: true,
  isRunning: true,
  holder: 'process 4711 on host',
  slotName: 'understudy_a1b2c3d4',
  spoolDirectory: '/spool/a1b2c3d4',
  stop: undefined,
  tables: 29,
  tablesCopied: 29,
  rowsCopied: 300_123,
  steps: 154,
  stepsDone: 154,
  stoppedTables: [],
  stoppedSpoolBytesMax: 10 * 2 ** 30,
  stoppedSpoolBytes: 0,
  largeObjects: undefined,
  definitionOnly: [],
  lag: { ...EXAMPLE_EVENTS.lag, sourceWalBytes: 614_000_000, ageMs: 400 },
  maxLagMs: undefined,
  isLate: false,
  sourceWalEtaMs: 3_600_000,
  verification: {
    scope: 'full',
    fenceLsn: '0/5A3B0000',
    finishedAt: '2026-01-01 10:00:00+00',
    differences: 0,
  },
};

test('a shadow that follows shows its runner, ladder, budget and verdict', () => {
  expect(statusLines(FOLLOWING, plainPaint)).toEqual([
    'shadow a1b2c3d4',
    '  source         me@production:5432/shop',
    '  phase          following',
    '  run by         process 4711 on host',
    '  copied         29 of 29 tables, 300,123 rows; 154 of 154 steps',
    '  lag            3.0 kB, 12 ms',
    '    source head  0/5A3B2C10',
    '    sent         0/5A3B2C10',
    '    received     0/5A3B2B00  -272 B',
    '    durable      0/5A3B2A00  -528 B',
    '    applied      0/5A3B2000  -3.0 kB',
    '  source WAL     586 MB of 10 GB retained, budget used up in 1 h 00 m',
    '  verified       both sides were the same at 0/5A3B0000 (full, 2026-01-01 10:00:00+00)',
    '  slot           understudy_a1b2c3d4',
    '  spool          /spool/a1b2c3d4',
    '',
  ]);
});

test('a shadow that needs a person says so, and how old its lag is', () => {
  const text = statusLines(
    {
      ...FOLLOWING,
      phase: 'stopped',
      isRunning: false,
      stop: { code: 'TABLE_CHANGED', message: 'table shop.a has another shape' },
      stoppedTables: [
        {
          table: 'shop.a',
          state: 'stopped',
          code: 'TABLE_CHANGED',
          reason: 'its shape\u001B[2J changed',
          stoppedAt: '2026-01-01T10:00:00+00:00',
          stopLsn: '0/5A3B0000',
          waitsFor: 'resume',
          spoolBytes: 64 * 2 ** 20,
          foreignKeys: ['shop.b'],
        },
      ],
      definitionOnly: [{ table: 'shop.cache', reason: 'it is unlogged' }],
      lag: { ...EXAMPLE_EVENTS.lag, ageMs: 65_000 },
      verification: undefined,
    },
    plainPaint,
  ).join('\n');
  expect(text).toContain('stopped by TABLE_CHANGED: table shop.a has another shape');
  expect(text).toContain('nobody now (process 4711 on host was the last)');
  expect(text).toContain('as of 1 m 05 s ago');
  expect(text).toContain('✘ table shop.a does not follow: its shape�[2J changed');
  expect(text).toContain('! table shop.cache has no rows here: it is unlogged');
  expect(text).toContain(
    'stopped 2026-01-01T10:00:00+00:00 at 0/5A3B0000; waits for `understudy resume`; ' +
      '64 MB of the spool kept for it (at most 10 GB); foreign keys with shop.b',
  );
  expect(text).toMatch(/verified +never/);
});
