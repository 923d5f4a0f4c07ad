import pino from 'pino';
import { expect, test } from 'vitest';

import type { ProgressEvent } from '#src/core/progress.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { repeatAttempts } from './apply-attempts.ts';

/** Time passes by sleeping only. */
function run(attempts: (count: number) => void) {
  let nowMs = 0;
  let count = 0;
  const events: ProgressEvent[] = [];
  const ended = repeatAttempts(
    {
      clock: {
        now: () => nowMs,
        sleep: async (ms) => {
          nowMs += ms;
        },
      },
      log: pino({ level: 'silent' }),
      report: (event) => events.push(event),
    },
    {
      attempt: async () => {
        attempts(++count);
        return 'done';
      },
      mend: async () => undefined,
    },
    new AbortController().signal,
  );
  return { ended, events };
}

const full = new OperatorError('STATEMENT_FAILED', 'no free replication state', {
  detail: { sqlstate: '53400' },
});

test('what goes by at once is not worth a word, what stays is said once', async () => {
  const brief = run((count) => {
    if (count < 3) throw full;
  });
  await brief.ended;
  expect(brief.events).toEqual([]);
  const long = run((count) => {
    if (count < 10) throw full;
  });
  await long.ended;
  expect(long.events).toMatchObject([
    {
      type: 'notice',
      level: 'warn',
      message: expect.stringContaining('no free replication state'),
    },
  ]);
});

test('what does not go by ends it after a minute, and what cannot go by at once', async () => {
  await expect(
    run(() => {
      throw full;
    }).ended,
  ).rejects.toBe(full);
  const data = new OperatorError('STATEMENT_FAILED', 'x', { detail: { sqlstate: '42P01' } });
  let count = 0;
  const failing = run(() => {
    count += 1;
    throw data;
  });
  await expect(failing.ended).rejects.toBe(data);
  expect(count).toBe(1);
});
