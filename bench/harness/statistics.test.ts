import { expect, test } from 'vitest';

import { ratioOf, spreadOf } from './statistics.ts';

test('the median of an even number of runs lies between the two in the middle', () => {
  expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4 });
  expect(spreadOf([5, 1, 2])).toEqual({ median: 2, min: 1, max: 5 });
});

test('a ratio compares the runs of one round, so a machine that slows down does not count', () => {
  expect(ratioOf([1, 1.2, 1.1], [0.5, 0.6, 0.55])).toEqual({
    kind: 'ratio',
    isIndication: false,
    median: 2,
    min: 2,
    max: 2,
  });
});

test('a reference that is not steady gives no ratio', () => {
  expect(ratioOf([1, 1.31, 1], [1, 1, 1])).toMatchObject({ kind: 'refused' });
  expect(ratioOf([1, 1.3, 1], [1, 1, 1])).toMatchObject({ kind: 'ratio' });
});

test('a ratio of fewer than three rounds is an indication', () => {
  expect(ratioOf([1, 1], [1, 1])).toMatchObject({ isIndication: true });
});
