import { expect, test } from 'vitest';

import { isFull, testFull } from './full.ts';

testFull('a test of the full run runs nowhere else', () => {
  expect(isFull).toBe(true);
});

test('a run is full only where it was asked for', () => {
  expect(isFull).toBe(process.env['UNDERSTUDY_TEST_FULL'] !== undefined);
});
