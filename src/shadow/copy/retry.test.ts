import { expect, test } from 'vitest';

import type { Clock } from '#src/lib/clock.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';
import { createLogger } from '#src/lib/log.ts';

import { retryLostConnections } from './retry.ts';

/** Time passes only by sleeping, and by `connectMs` a try. */
function world(connectMs: number) {
  let now = 0;
  const abort = new AbortController();
  const clock: Clock = {
    now: () => now,
    sleep: async (ms) => {
      now += ms;
    },
  };
  const failing = (codes: readonly ErrorCode[]) => {
    let tries = 0;
    return {
      tries: () => tries,
      work: async () => {
        now += connectMs;
        tries += 1;
        const code = codes[Math.min(tries, codes.length) - 1];
        if (code !== undefined && tries <= codes.length) throw new OperatorError(code, 'trouble');
        return 'done';
      },
    };
  };
  return {
    now: () => now,
    abort,
    failing,
    deps: { clock, log: createLogger('silent'), signal: abort.signal },
  };
}

test('work goes on after a server was away and back', async () => {
  const { deps, failing } = world(10);
  const { work, tries } = failing(['CONNECTION_LOST', 'CONNECTION_FAILED', 'CONNECTION_FAILED']);
  await expect(retryLostConnections(deps, work)).resolves.toBe('done');
  expect(tries()).toBe(4);
});

test('a server that stays away is given up after a minute', async () => {
  const { deps, failing, now } = world(10);
  const { work } = failing(Array.from({ length: 1000 }, () => 'CONNECTION_FAILED' as const));
  await expect(retryLostConnections(deps, work)).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
  });
  expect(now()).toBeGreaterThan(60_000);
  expect(now()).toBeLessThan(70_000);
});

test('work that breaks its connection each time is given up after five times', async () => {
  const { deps, failing } = world(10);
  const { work, tries } = failing(Array.from({ length: 1000 }, () => 'CONNECTION_LOST' as const));
  await expect(retryLostConnections(deps, work)).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  expect(tries()).toBe(5);
});

test('any other failure is not repeated, nor is anything after an abort', async () => {
  const { deps, failing, abort } = world(10);
  const other = failing(['COPY_MISMATCH']);
  await expect(retryLostConnections(deps, other.work)).rejects.toMatchObject({
    code: 'COPY_MISMATCH',
  });
  abort.abort(new Error('enough'));
  const lost = failing(['CONNECTION_LOST']);
  await expect(retryLostConnections(deps, lost.work)).rejects.toThrow('enough');
  expect(lost.tries()).toBe(0);
});
