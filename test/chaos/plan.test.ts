import { expect, test } from 'vitest';

import { DISTURBANCES, planRound } from './plan.ts';

test('the same seed is the same plan, another seed another one', () => {
  expect(planRound(7, 12)).toEqual(planRound(7, 12));
  expect(planRound(8, 12)).not.toEqual(planRound(7, 12));
  // A longer round begins as the shorter one does.
  expect(planRound(7, 20).steps.slice(0, 12)).toEqual(planRound(7, 12).steps);
});

test('everything happens within a night of seeds', () => {
  const seeds = Array.from({ length: 100 }, (_, seed) => seed);
  const met = new Set(seeds.flatMap((seed) => planRound(seed, 12).steps.map(({ name }) => name)));
  expect(met).toEqual(new Set(DISTURBANCES));
});
