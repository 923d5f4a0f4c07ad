import { expect, test } from 'vitest';

import { createRandom } from '#src/cli/demo/random.ts';

import { trendOf } from './trend.ts';

function series(value: (share: number, random: () => number) => number, samples = 100) {
  const random = createRandom(1);
  return Array.from({ length: samples }, (_, i) => ({
    atMs: i * 1000,
    value: value(i / samples, random),
  }));
}

test('a leak is seen through the noise, and through a saw', () => {
  const leak = trendOf(
    series((share, random) => 100 + 60 * share + 10 * random()),
    5,
  );
  expect(leak).toMatchObject({ verdict: 'growing' });
  expect(leak.rise).toBeGreaterThan(35);
  const saw = series((share) => 100 + 60 * share + ((share * 100) % 10) * 2);
  expect(trendOf(saw, 5).verdict).toBe('growing');
});

test('noise, a saw, a fall, a constant and a warm-up are flat', () => {
  for (const value of [
    (_: number, random: () => number) => 100 + 50 * random(),
    (share: number) => 100 + ((share * 100) % 10),
    (share: number) => 100 - 50 * share,
    () => 7,
    () => 0,
    (share: number) => Math.min(200, 100 + 500 * share),
    // Below the floor.
    (share: number) => 4 * share,
  ]) {
    expect(trendOf(series(value), 5).verdict).toBe('flat');
  }
});

test('a run that is too short says so', () => {
  expect(
    trendOf(
      series((share) => share * 1000, 12),
      5,
    ).verdict,
  ).toBe('too short');
  expect(trendOf([], 5).verdict).toBe('too short');
});
