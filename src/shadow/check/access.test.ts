import { expect, test } from 'vitest';

import { checkLatePublication } from './access.ts';

const at = (serverVersion: number, isFollowed = true) =>
  checkLatePublication({ isFollowed, source: { serverVersion } });

test('a source that can lose changes of a table which is published later is told, with the version to update to', () => {
  expect(at(160008)).toMatchObject([
    {
      id: 'late-publication',
      severity: 'warn',
      object: 'server version 16.8',
      cause: expect.stringContaining('before 16.9'),
      fix: { runOn: 'operator', text: expect.stringContaining('at least 16.9') },
    },
  ]);
  expect([at(160009), at(180000), at(160008, false), at(130000)]).toEqual([[], [], [], []]);
});
