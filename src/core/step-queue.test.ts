import { expect, test } from 'vitest';

import { StepQueue } from './step-queue.ts';

const index = (table: string) => ({ kind: 'INDEX', table });
const constraint = (table: string) => ({ kind: 'CONSTRAINT', table });

test('indexes of one table are built together', () => {
  const queue = new StepQueue([index('a'), index('a')]);
  expect([queue.take(), queue.take()]).toEqual([index('a'), index('a')]);
  expect(queue.isEmpty).toBe(true);
});

test('a constraint waits for its table, and another table goes first', () => {
  const steps = [index('a'), constraint('a'), constraint('b')];
  const queue = new StepQueue(steps);
  expect(queue.take()).toBe(steps[0]);
  expect(queue.take()).toBe(steps[2]);
  expect(queue.take()).toBeUndefined();
  expect(queue.isEmpty).toBe(false);
  queue.finish(steps[0]!);
  expect(queue.take()).toBe(steps[1]);
});
