import { expect, test } from 'vitest';

import { createRandom } from './random.ts';

const take = (seed: number): number[] => Array.from({ length: 3 }, createRandom(seed));

test('a seed gives the same numbers in every run, and another seed others', () => {
  expect(take(20_260_401)).toEqual(take(20_260_401));
  expect(take(20_260_402)).not.toEqual(take(20_260_401));
});

test('numbers fill the range evenly', () => {
  const random = createRandom(7);
  const tenths = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 10_000; i += 1) {
    const at = Math.floor(random() * 10);
    tenths[at] = (tenths[at] ?? Number.NaN) + 1;
  }
  for (const count of tenths) expect(Math.abs(count - 1000)).toBeLessThan(120);
});
