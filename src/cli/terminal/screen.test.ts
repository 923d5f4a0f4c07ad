import { PassThrough } from 'node:stream';

import { expect, test, vi } from 'vitest';

import type { OutputStream } from '#src/cli/shell.ts';
import { EXAMPLE_EVENTS } from '#test/example-lines.ts';

import { createScreen } from './screen.ts';

/** A stream that keeps what is written, and a clock that stands until it is moved. */
function createSink(terminal?: { isTTY: true; columns: number; rows: number }) {
  const stream = new PassThrough();
  const stdout: OutputStream = Object.assign(stream, terminal);
  let nowMs = Date.UTC(2026, 0, 1);
  return {
    stdout,
    clock: { now: () => nowMs, sleep: async () => undefined },
    advance: (ms: number) => (nowMs += ms),
    text: () => String(stream.read() ?? ''),
  };
}

const options = { isLiveAllowed: true, title: 'understudy clone' };

test('JSON has one object a line, every event as it is, with its time', () => {
  const sink = createSink();
  const screen = createScreen({ ...sink, ...options, isJson: true });
  for (const event of Object.values(EXAMPLE_EVENTS)) screen.report(event);
  screen.print({ type: 'checked', tables: 1, refusals: 0, warnings: 0 }, ['not shown']);
  screen.end();
  const lines = sink.text().trimEnd().split('\n');
  const time = '2026-01-01T00:00:00.000Z';
  expect(lines.map((line): unknown => JSON.parse(line))).toEqual([
    ...Object.values(EXAMPLE_EVENTS).map((event) => ({ ...event, time })),
    { type: 'checked', tables: 1, refusals: 0, warnings: 0, time },
  ]);
});

test('plain output is one line a second for each kind, and every change of phase', () => {
  const sink = createSink();
  const screen = createScreen({ ...sink, ...options, isJson: false });
  for (let tick = 0; tick < 30; tick += 1) {
    screen.report({ ...EXAMPLE_EVENTS.copyProgress, rows: tick });
    screen.report(EXAMPLE_EVENTS.lag);
    sink.advance(100);
  }
  screen.report(EXAMPLE_EVENTS.phaseStarted);
  screen.report({ ...EXAMPLE_EVENTS.phaseStarted, phase: 'following' });
  screen.report(EXAMPLE_EVENTS.notice);
  screen.end();
  const lines = sink.text().trimEnd().split('\n');
  expect(lines.filter((line) => line.includes('copied'))).toHaveLength(3);
  expect(lines.filter((line) => line.includes('lag'))).toHaveLength(3);
  expect(lines.slice(-3)).toEqual([
    '00:00:03Z phase copying (shadow a1b2c3d4)',
    '00:00:03Z phase following; copying took 0.0 s: 29 tables, 29 rows, 38 MB, 29,000 rows/s',
    '00:00:03Z warning: the source answers slowly',
  ]);
});

test('plain output has no escape sequences, whatever a table is called', () => {
  const sink = createSink();
  const screen = createScreen({ ...sink, ...options, isJson: false });
  for (const event of Object.values(EXAMPLE_EVENTS)) screen.report(event);
  screen.report({
    ...EXAMPLE_EVENTS.tableProgress,
    table: { schema: 's', name: '\u001B[2J' },
    state: 'restarted',
  });
  screen.end();
  // oxlint-disable-next-line no-control-regex -- what must not be there
  expect(sink.text().replaceAll('\n', '')).not.toMatch(/[\u0000-\u001F\u007F-\u009F]/);
});

test('a terminal is redrawn at most ten times a second', () => {
  vi.useFakeTimers();
  try {
    const sink = createSink({ isTTY: true, columns: 80, rows: 30 });
    const screen = createScreen({ ...sink, ...options, isJson: false });
    const frames: string[] = [];
    for (let tick = 0; tick < 1000; tick += 1) {
      screen.report({ ...EXAMPLE_EVENTS.copyProgress, rows: tick });
      sink.advance(1);
      vi.advanceTimersByTime(1);
      const text = sink.text();
      if (text !== '') frames.push(text);
    }
    expect(frames.length).toBeGreaterThan(0);
    expect(frames.length).toBeLessThanOrEqual(10);
    screen.end();
  } finally {
    vi.useRealTimers();
  }
});
