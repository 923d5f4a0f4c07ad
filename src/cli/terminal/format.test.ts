import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import {
  bar,
  clip,
  formatBytes,
  formatCount,
  formatDuration,
  formatLagTime,
  formatPercent,
  formatPlural,
  formatRate,
  formatTable,
  printable,
  remainingMs,
} from './format.ts';

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [1024, '1.0 kB'],
  [9.94 * 1024, '9.9 kB'],
  [9.96 * 1024, '10 kB'],
  [10 * 2 ** 30, '10 GB'],
  [2 ** 60, '1024 PB'],
  [-2048, '-2.0 kB'],
  [Number.NaN, '–'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  [0, '0'],
  [999, '999'],
  [1000, '1,000'],
  [1_234_567.6, '1,234,568'],
  [-1234, '-1,234'],
  [12_345_678_901_234_567_890n, '12,345,678,901,234,567,890'],
])('%d is written %s', (count, text) => {
  expect(formatCount(count)).toBe(text);
});

test.each([
  [0, '0.0 s'],
  [9949, '9.9 s'],
  [9950, '10 s'],
  [59_400, '59 s'],
  [59_600, '1 m 00 s'],
  [245_000, '4 m 05 s'],
  [11_220_000, '3 h 07 m'],
  [187_200_000, '2 d 04 h'],
  [-5, '0.0 s'],
  [Number.POSITIVE_INFINITY, '–'],
])('%d ms are %s', (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});

test('lag below a second is in milliseconds', () => {
  expect([formatLagTime(12.4), formatLagTime(1500)]).toEqual(['12 ms', '1.5 s']);
});

test('rates and plurals name what they count', () => {
  expect(formatRate(76_200.2, 'rows')).toBe('76,200 rows/s');
  expect(formatRate(Number.NaN, 'rows')).toBe('– rows/s');
  expect([formatPlural(1, 'table'), formatPlural(2000, 'table')]).toEqual([
    '1 table',
    '2,000 tables',
  ]);
});

test('an estimate is given only while something moves', () => {
  expect(remainingMs(100, 50)).toBe(2000);
  expect(remainingMs(0, 0)).toBe(0);
  expect(remainingMs(100, 0)).toBeUndefined();
});

test('a bar has its width, and a percentage reaches 100 only at the end', () => {
  fc.assert(
    fc.property(fc.double(), fc.nat(200), (fraction, width) => {
      expect(bar(fraction, width)).toHaveLength(width);
      expect(formatPercent(fraction)).toMatch(/^( {2}\d| \d\d|100) %$/);
    }),
  );
  expect(formatPercent(0.9999)).toBe(' 99 %');
  expect(formatPercent(1)).toBe('100 %');
});

test('a name cannot move the cursor', () => {
  expect(printable('a\u001B[31mb\nc\u009Bd')).toBe('a�[31mb�c�d');
  expect(clip('shop.order_line', 6)).toBe('shop.…');
  expect(clip('shop', 6)).toBe('shop');
});

test('cells are aligned, numbers to the right, without blanks at the end', () => {
  expect(
    formatTable(
      [
        ['a', '1', 'x'],
        ['long', '1,000', ''],
      ],
      [1],
    ),
  ).toEqual(['a         1  x', 'long  1,000']);
});
