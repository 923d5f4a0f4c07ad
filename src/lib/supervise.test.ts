import { expect, test } from 'vitest';

import { supervise, type Task } from './supervise.ts';

const untilAborted: Task = async (signal) =>
  new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
  });

const failing: Task = async () => {
  throw new Error('first');
};

test('the first failure ends the others and is the one that is thrown', async () => {
  await expect(supervise([untilAborted, failing], new AbortController().signal)).rejects.toThrow(
    'first',
  );
});

test('a task that ends well ends the others', async () => {
  await expect(
    supervise([untilAborted, async () => undefined], new AbortController().signal),
  ).resolves.toBeUndefined();
});

test('an abort from outside is thrown as it is, once everything has ended', async () => {
  const outside = new AbortController();
  const running = supervise([untilAborted, untilAborted], outside.signal);
  outside.abort(new Error('interrupted'));
  await expect(running).rejects.toThrow('interrupted');
});
