import { parseLsn } from '#src/core/lsn.ts';
import type { Lag } from '#src/core/progress.ts';

import {
  formatBytes,
  formatDuration,
  formatLagTime,
  formatRate,
  formatTable,
  remainingMs,
} from './format.ts';
import type { Line } from './line.ts';
import type { View } from './view.ts';

/**
 * When the end of the budget is worth a word. Retention goes up and down with each confirmation, so a
 * rise while there is plenty is no news.
 */
const BUDGET_ETA_MAX_MS = 24 * 3_600_000;
const BUDGET_USED_MIN = 0.05;

/**
 * The lag ladder: how far each of the five positions is behind the source's head. They are never the
 * same fact: what is received may be lost, what is durable here may not be visible on the target yet.
 */
export function ladderLines(view: View, lag: Lag): Line[] {
  const rungs = [
    ['source head', lag.sourceHeadLsn],
    ['sent', lag.sentLsn],
    ['received', lag.receivedLsn],
    ['durable', lag.durableLsn],
    ['applied', lag.appliedLsn],
  ] as const;
  const table = formatTable(
    rungs.map(([name, lsn]) => [`  ${name}`, lsn, behindText(lag.sourceHeadLsn, lsn)]),
  );
  const speed =
    `   ${formatRate(view.rates.appliedTransactions.perSecond(), 'tx')}` +
    `  ${formatRate(view.rates.appliedRows.perSecond(), 'rows')}`;
  const lines: Line[] = table.map((text, rung) =>
    rung === rungs.length - 1 ? [['bold', text], speed] : [['dim', text]],
  );
  return [[['bold', 'lag'], `          ${lagText(lag)}`], ...lines, walLine(view, lag)];
}

/** `528 B, 12 ms`; the time is not known before anything was applied. */
export function lagText(lag: Lag): string {
  const bytes = formatBytes(lag.lagBytes);
  return lag.lagMs === 0 && lag.lagBytes > 0 ? bytes : `${bytes}, ${formatLagTime(lag.lagMs)}`;
}

/** `12 MB of 10 GB retained`, with the time until the budget is used up when that is in sight. */
export function walText(lag: Lag, etaMs: number | undefined): string {
  const text = `${formatBytes(lag.sourceWalBytes)} of ${formatBytes(lag.sourceWalBytesMax)} retained`;
  const isPlenty = lag.sourceWalBytes < lag.sourceWalBytesMax * BUDGET_USED_MIN;
  return etaMs === undefined || etaMs > BUDGET_ETA_MAX_MS || isPlenty
    ? text
    : `${text}, budget used up in ${formatDuration(etaMs)}`;
}

/** Until the budget is used up, if the retained WAL goes on growing as in the last minute. */
export function budgetEtaMs(view: View, lag: Lag): number | undefined {
  return remainingMs(
    lag.sourceWalBytesMax - lag.sourceWalBytes,
    view.rates.retainedWal.perSecond(),
  );
}

function walLine(view: View, lag: Lag): Line {
  const used = lag.sourceWalBytesMax === 0 ? 0 : lag.sourceWalBytes / lag.sourceWalBytesMax;
  const style = used > 0.8 ? 'red' : used > 0.5 ? 'yellow' : 'dim';
  const spool = lag.spoolBytes === 0 ? '' : `, spool ${formatBytes(lag.spoolBytes)}`;
  return ['  source WAL   ', [style, `${walText(lag, budgetEtaMs(view, lag))}${spool}`]];
}

/** `-528 B` for a position behind the head, else nothing. */
export function behindText(headText: string, text: string): string {
  const head = parseLsn(headText);
  const position = parseLsn(text);
  if (head === undefined || position === undefined || position === 0n) return '';
  return position >= head ? '' : `-${formatBytes(Number(head - position))}`;
}
