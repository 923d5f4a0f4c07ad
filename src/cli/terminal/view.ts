import type { CliEvent } from '#src/cli/events.ts';
import type { Lag, Phase } from '#src/core/progress.ts';
import { assertNever } from '#src/lib/assert.ts';

import { formatDuration } from './format.ts';
import { RateWindow } from './rate.ts';

type EventOf<T extends CliEvent['type']> = Extract<CliEvent, { type: T }>;

/** A phase that was entered; `endedMs` is undefined for the one that runs. */
export type PhaseEntry = {
  readonly phase: Phase;
  readonly startedMs: number;
  endedMs: number | undefined;
};

/** What a screen shows, gathered from the events; the pictures are drawn from it alone. */
export type View = {
  readonly startedMs: number;
  shadowId: string | undefined;
  readonly phases: PhaseEntry[];
  copy: EventOf<'copyProgress'> | undefined;
  /** What an earlier run had copied: it says nothing about this one's speed. */
  rowsBefore: number;
  step: EventOf<'stepFinished'> | undefined;
  /** Of the phase that builds indexes; what follows counts anew. */
  stepsIndexed: number;
  lag: Lag | undefined;
  /** A verification that runs; its verdict takes its place. */
  verifying: EventOf<'verifyProgress'> | undefined;
  verified: EventOf<'verified'> | undefined;
  /** Verifications that have ended. */
  verifications: number;
  load: EventOf<'loadProgress'> | undefined;
  /** Tables in flight, by quoted name. */
  readonly tables: Map<string, EventOf<'tableProgress'>>;
  /** The user has asked for the end. */
  isStopping: boolean;
  readonly notices: { readonly atMs: number; readonly event: EventOf<'notice'> }[];
  readonly rates: {
    readonly copyRows: RateWindow;
    readonly copyBytes: RateWindow;
    readonly copyHeap: RateWindow;
    readonly appliedTransactions: RateWindow;
    readonly appliedRows: RateWindow;
    readonly retainedWal: RateWindow;
    readonly load: RateWindow;
  };
};

/** Notices that stay visible, and for how long: most tell of something that passes. */
const NOTICES_MAX = 3;
export const NOTICE_MS = 20_000;

export function createView(nowMs: number): View {
  return {
    startedMs: nowMs,
    shadowId: undefined,
    phases: [],
    copy: undefined,
    rowsBefore: 0,
    step: undefined,
    stepsIndexed: 0,
    lag: undefined,
    verifying: undefined,
    verified: undefined,
    verifications: 0,
    load: undefined,
    tables: new Map(),
    isStopping: false,
    notices: [],
    rates: {
      copyRows: new RateWindow(),
      copyBytes: new RateWindow(),
      copyHeap: new RateWindow(),
      appliedTransactions: new RateWindow(),
      appliedRows: new RateWindow(),
      // Retention falls at every checkpoint of ours; a minute shows where it goes.
      retainedWal: new RateWindow(60_000),
      load: new RateWindow(),
    },
  };
}

/** Take an event in. */
export function observe(view: View, event: CliEvent, nowMs: number): void {
  switch (event.type) {
    case 'phaseStarted':
      enterPhase(view, event, nowMs);
      break;
    case 'tableProgress':
      observeTable(view, event);
      break;
    case 'copyProgress':
      if (view.copy === undefined) view.rowsBefore = event.rows;
      view.copy = event;
      view.rates.copyRows.add(nowMs, event.rows);
      view.rates.copyBytes.add(nowMs, event.bytes);
      view.rates.copyHeap.add(nowMs, event.heapBytes);
      break;
    case 'stepFinished':
      view.step = event;
      if (view.phases.at(-1)?.phase === 'indexing') view.stepsIndexed = event.total;
      break;
    case 'lag':
      view.lag = event;
      view.rates.appliedTransactions.add(nowMs, event.transactionsApplied);
      view.rates.appliedRows.add(nowMs, event.rowsApplied);
      view.rates.retainedWal.add(nowMs, event.sourceWalBytes);
      break;
    case 'late':
    case 'inTime':
      observeNotice(view, latenessNotice(event), nowMs);
      break;
    case 'verifyProgress':
      view.verifying = event;
      break;
    case 'verified':
      view.verifying = undefined;
      view.verified = event;
      view.verifications += 1;
      break;
    case 'notice':
      observeNotice(view, event, nowMs);
      break;
    case 'loadProgress':
      view.load = event;
      view.rates.load.add(nowMs, event.transactions);
      break;
    default:
      assertNever(event);
  }
}

function enterPhase(view: View, event: EventOf<'phaseStarted'>, nowMs: number): void {
  const last = view.phases.at(-1);
  view.shadowId = event.shadowId;
  if (last?.phase === event.phase) return;
  if (last !== undefined) last.endedMs = nowMs;
  view.tables.clear();
  view.phases.push({ phase: event.phase, startedMs: nowMs, endedMs: undefined });
}

/** `late: 42 s behind the source, more than 30 s` */
export function latenessNotice(event: EventOf<'late' | 'inTime'>): EventOf<'notice'> {
  const isLate = event.type === 'late';
  const behind = formatDuration(event.lagMs);
  const tolerance = formatDuration(event.maxLagMs);
  return {
    type: 'notice',
    level: isLate ? 'warn' : 'info',
    message: isLate
      ? `late: ${behind} behind the source, more than ${tolerance}`
      : `in time again: ${behind} behind the source, tolerance ${tolerance}`,
  };
}

function observeNotice(view: View, event: EventOf<'notice'>, nowMs: number): void {
  const same = view.notices.findIndex((notice) => notice.event.message === event.message);
  if (same >= 0) view.notices.splice(same, 1);
  view.notices.push({ atMs: nowMs, event });
  if (view.notices.length > NOTICES_MAX) view.notices.shift();
}

function observeTable(view: View, event: EventOf<'tableProgress'>): void {
  const key = JSON.stringify([event.table.schema, event.table.name]);
  if (event.state === 'copied') view.tables.delete(key);
  else view.tables.set(key, event);
}
