import { expect, test } from 'vitest';

import { parseLsn } from '#src/core/lsn.ts';

import { parseTimelineHistory } from './timeline.ts';

test('a history names every ancestor with the position where it ended', () => {
  const text =
    '1\t0/3000148\tno recovery target specified\n\n# a comment\n2\tA/40\tbefore 2000-01-01\n';
  expect(parseTimelineHistory(text)).toEqual([
    { timeline: 1, endLsn: parseLsn('0/3000148') },
    { timeline: 2, endLsn: parseLsn('A/40') },
  ]);
  expect(parseTimelineHistory('')).toEqual([]);
  expect(() => parseTimelineHistory('not a history')).toThrow(
    expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
  );
});
