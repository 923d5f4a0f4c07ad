import type { CliEvent } from '#src/cli/events.ts';

import {
  formatBytes,
  formatCount,
  formatDuration,
  formatPercent,
  formatPlural,
  formatRate,
  printable,
} from './format.ts';
import { copyRemainingMs, phaseSummary, tableLabel, verifiedCost } from './frame.ts';
import { budgetEtaMs, lagText, walText } from './ladder.ts';
import { latenessNotice, type View } from './view.ts';

/** Kinds that come many times a second; of each, one line a second is enough for a log. */
const THROTTLED = new Set<CliEvent['type']>([
  'tableProgress',
  'copyProgress',
  'stepFinished',
  'lag',
  'verifyProgress',
  'loadProgress',
]);
const INTERVAL_MS = 1000;

/** Says which events are printed on a screen without a live region. */
export function createThrottle(): (event: CliEvent, nowMs: number) => boolean {
  const printedMs = new Map<CliEvent['type'], number>();
  return (event, nowMs) => {
    if (!THROTTLED.has(event.type)) return true;
    const last = printedMs.get(event.type);
    if (last !== undefined && nowMs - last < INTERVAL_MS) return false;
    printedMs.set(event.type, nowMs);
    return true;
  };
}

/** An event in one line of text, after `view` has observed it; undefined when there is nothing to say. */
export function plainLine(view: View, event: CliEvent): string | undefined {
  const text = describe(view, event);
  return text === undefined ? undefined : printable(text);
}

function describe(view: View, event: CliEvent): string | undefined {
  switch (event.type) {
    case 'phaseStarted':
      return phaseText(view, event.phase);
    case 'tableProgress':
      return event.state === 'restarted'
        ? `table ${tableLabel(event.table)} is copied again from its start`
        : `table ${tableLabel(event.table)}: ${formatCount(event.rows)} rows`;
    case 'copyProgress':
      return copyText(view, event);
    case 'stepFinished':
      return `step ${event.done} of ${event.total}: ${event.object}`;
    case 'lag':
      return `lag ${lagText(event)}; applied ${event.appliedLsn} of ${event.sourceHeadLsn}; WAL ${walText(event, budgetEtaMs(view, event))}`;
    case 'verifyProgress':
      return (
        `verifying ${tableLabel(event.table)}: ${event.tablesVerified} of ` +
        `${formatPlural(event.tables, 'table')}, ${formatCount(event.rows)} rows`
      );
    case 'verified':
      return verifiedText(event);
    case 'notice':
      return event.level === 'warn' ? `warning: ${event.message}` : event.message;
    case 'late':
    case 'inTime':
      return describe(view, latenessNotice(event));
    case 'loadProgress':
      return (
        `load: ${formatRate(view.rates.load.perSecond(), 'transactions')}, ` +
        `${formatCount(event.transactions)} committed, ${formatCount(event.failed)} failed`
      );
    default:
      return undefined;
  }
}

function phaseText(view: View, phase: string): string {
  const before = view.phases.at(-2);
  if (before === undefined) return `phase ${phase} (shadow ${view.shadowId})`;
  const took = formatDuration((before.endedMs ?? before.startedMs) - before.startedMs);
  const summary = phaseSummary(view, before);
  return `phase ${phase}; ${before.phase} took ${took}${summary === '' ? '' : `: ${summary}`}`;
}

function copyText(view: View, copy: Extract<CliEvent, { type: 'copyProgress' }>): string {
  const fraction = copy.heapBytesTotal === 0 ? 1 : copy.heapBytes / copy.heapBytesTotal;
  const eta = copyRemainingMs(view);
  return (
    `copied${formatPercent(fraction)}: ${copy.tablesCopied} of ${formatPlural(copy.tables, 'table')}, ` +
    `${formatCount(copy.rows)} rows, ${formatBytes(copy.bytes)}, ` +
    `${formatRate(view.rates.copyRows.perSecond(), 'rows')}, ` +
    `${formatBytes(view.rates.copyBytes.perSecond())}/s` +
    (eta === undefined ? '' : `, ETA ${formatDuration(eta)}`)
  );
}

function verifiedText(event: Extract<CliEvent, { type: 'verified' }>): string {
  const verdict =
    event.differences === 0
      ? 'both sides are the same'
      : formatPlural(event.differences, 'difference');
  const at = event.lsn === undefined ? '' : ` at ${event.lsn}`;
  const missing =
    event.unverified.length === 0 ? '' : `; not verified: ${event.unverified.join(', ')}`;
  return `verified${at}: ${verdict} (${verifiedCost(event)})${missing}`;
}
