import { expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';

import { neededAfter } from './spool-floor.ts';

const STOPPED = {
  code: 'X',
  message: 'x',
  lsn: lsn(50n),
  waitsFor: 'reseed',
  at: undefined,
} as const;

const copying: RelationRecord = {
  sourceOid: 1,
  schema: 'public',
  name: 't',
  state: 'copying',
  isInLane: true,
  startLsn: lsn(10n),
  appliedLsn: undefined,
  columns: [],
  key: [],
  stop: undefined,
  isSpooled: false,
  spoolBytes: 0,
  rows: 0,
  published: '',
};

test('a copy needs the spool from its snapshot on, and before it has one, what a resume would', () => {
  expect(neededAfter(copying)).toBe(lsn(10n));
  // The copy from 10 on is the one from before it stopped: nothing needs its changes any more.
  expect(neededAfter({ ...copying, stop: STOPPED })).toBeUndefined();
  expect(neededAfter({ ...copying, stop: STOPPED, isSpooled: true })).toBe(lsn(50n));
});
