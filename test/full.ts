import { test } from 'vitest';

/**
 * Whether this run is `npm run test:full`: every pair of versions and every full size, which takes
 * longer than anybody waits for `npm test`. What runs only there has a smaller sister that always runs.
 */
export const isFull = process.env['UNDERSTUDY_TEST_FULL'] === '1';

/** A test of `npm run test:full` only. */
export const testFull = isFull ? test : test.skip;

/** The cases of a test, such as pairs of versions: the first always, the others in the long run. */
export function casesOf<Case>(first: Case, ...others: readonly Case[]): readonly Case[] {
  return isFull ? [first, ...others] : [first];
}
