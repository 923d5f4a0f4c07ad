import { expect, test } from 'vitest';

import type { ProgressEvent } from '#src/core/progress.ts';
import type { Table } from '#src/core/table.ts';

import { createCopyProgress } from './copy-progress.ts';

const table = (oid: number): Table => ({
  schema: 'public',
  name: `t${oid}`,
  oid,
  columns: [],
  key: [],
  replicaIdentity: 'd',
  partitionRoot: undefined,
  rowFilter: undefined,
  excludedColumns: [],
  pages: 0,
  rowsEstimate: 10,
});

function world() {
  const events: ProgressEvent[] = [];
  let now = 1000;
  const clock = { now: () => now, sleep: async () => undefined };
  const progress = createCopyProgress({ report: (event) => events.push(event), clock });
  const last = () => events.findLast((event) => event.type === 'copyProgress');
  return { events, progress, last, pass: (ms: number) => (now += ms) };
}

test('a part on its way counts at once, and not any more when it fails', () => {
  const { progress, last, pass } = world();
  progress.start(table(1), { sourceBytes: 1000, sourceBytesCopied: 400, rows: 4, bytes: 40 });
  const part = progress.part(table(1), 600);
  pass(1000);
  part.advance(3, 30);
  expect(last()).toMatchObject({ rows: 7, bytes: 70, heapBytes: 430, heapBytesTotal: 1000 });
  part.advance(3, 9999);
  progress.flush();
  expect(last()).toMatchObject({ heapBytes: 1000 });
  part.discard();
  progress.flush();
  expect(last()).toMatchObject({ rows: 4, bytes: 40, heapBytes: 400, parts: 0 });
});

test('however often a part advances, it is reported five times a second', () => {
  const { events, progress, pass } = world();
  progress.start(table(1), { sourceBytes: 1000, sourceBytesCopied: 0, rows: 0, bytes: 0 });
  const part = progress.part(table(1), 1000);
  for (let ms = 0; ms < 1000; ms += 1) {
    pass(1);
    part.advance(ms, ms);
  }
  expect(events.filter((event) => event.type === 'copyProgress').length).toBeLessThanOrEqual(6);
});

test('a table that starts again loses what was counted', () => {
  const { events, progress, last } = world();
  progress.start(table(1), { sourceBytes: 500, sourceBytesCopied: 0, rows: 0, bytes: 0 });
  progress.start(table(2), { sourceBytes: 500, sourceBytesCopied: 0, rows: 0, bytes: 0 });
  progress.part(table(1), 250).commit(5, 50);
  progress.part(table(2), 500).commit(7, 70);
  progress.finish(table(2));
  progress.restart(table(1));
  progress.start(table(1), { sourceBytes: 100, sourceBytesCopied: 0, rows: 0, bytes: 0 });
  progress.flush();
  expect(last()).toMatchObject({
    tables: 2,
    tablesCopied: 1,
    rows: 7,
    heapBytes: 500,
    heapBytesTotal: 600,
    parts: 2,
  });
  expect(progress.totals()).toEqual({ rows: 7, bytes: 70 });
  expect(events).toContainEqual(expect.objectContaining({ state: 'restarted', rows: 0 }));
});
