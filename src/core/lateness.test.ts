import { expect, test } from 'vitest';

import { stepLateness } from './lateness.ts';

const exactly = (lagMs: number) => ({ lagMs, isExact: true });

function run(lags: readonly number[], toleranceMs: number): string {
  let isLate = false;
  return lags
    .map((lagMs) => {
      isLate = stepLateness(isLate, exactly(lagMs), toleranceMs);
      return isLate ? 'L' : '.';
    })
    .join('');
}

test('beyond the tolerance it is late, at half of it in time again', () => {
  expect(run([0, 29_999, 30_000, 30_001, 60_000, 15_001, 15_000, 30_000], 30_000)).toBe('...LLL..');
});

test('a lag that hovers around the tolerance makes it late once', () => {
  const hovering = Array.from({ length: 100 }, (_, i) => 30_000 + (i % 2 === 0 ? 900 : -900));
  expect(run(hovering, 30_000)).toBe('L'.repeat(100));
});

test('without a tolerance nothing is late', () => {
  expect(run([1e12], 0)).toBe('.');
  expect(stepLateness(true, exactly(1e12), 0)).toBe(false);
});

test('what is only a lower bound makes late, and never in time', () => {
  expect(stepLateness(true, { lagMs: 0, isExact: false }, 30_000)).toBe(true);
  expect(stepLateness(false, { lagMs: 0, isExact: false }, 30_000)).toBe(false);
  expect(stepLateness(false, { lagMs: 31_000, isExact: false }, 30_000)).toBe(true);
});
