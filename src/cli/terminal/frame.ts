import { quoteIdentifier, type TableName } from '#src/core/table.ts';

import {
  bar,
  clip,
  formatBytes,
  formatCount,
  formatDuration,
  formatPercent,
  formatPlural,
  formatRate,
  remainingMs,
} from './format.ts';
import { ladderLines } from './ladder.ts';
import type { Line } from './line.ts';
import { NOTICE_MS, type PhaseEntry, type View } from './view.ts';

/** Tables in flight that get a bar of their own. */
const TABLE_BARS_MAX = 4;
const LABEL_WIDTH = 13;

export type FrameOptions = {
  readonly nowMs: number;
  readonly columns: number;
  readonly title: string;
};

/** The picture of a view, one line after the other; what has not happened takes no space. */
export function frameLines(view: View, options: FrameOptions): Line[] {
  const { nowMs } = options;
  const shadow = view.shadowId === undefined ? '' : `  shadow ${view.shadowId}`;
  const lines: Line[] = [
    [
      ['bold', options.title],
      ['dim', `${shadow}  ${formatDuration(nowMs - view.startedMs)}`],
    ],
  ];
  for (const phase of view.phases) lines.push(phaseLine(view, phase, nowMs));
  const current = view.phases.at(-1)?.phase;
  if (current === 'copying') lines.push(...copyLines(view, options));
  const isBuilding = current === 'indexing' || current === 'catching up';
  if (isBuilding && view.step !== undefined && view.step.done < view.step.total) {
    const { done, total, object } = view.step;
    lines.push([
      label('  steps'),
      ['cyan', bar(done / total, barWidth(options))],
      ` ${done} of ${total}  ${object}`,
    ]);
  }
  if (view.lag !== undefined) lines.push(...ladderLines(view, view.lag));
  lines.push(...loadLines(view), ...verifyLines(view));
  for (const { atMs, event } of view.notices) {
    if (nowMs - atMs > NOTICE_MS) continue;
    lines.push([[event.level === 'warn' ? 'yellow' : 'dim', `! ${event.message}`]]);
  }
  if (view.isStopping) lines.push([['yellow', 'stopping in order; Ctrl-C again ends it at once']]);
  return lines;
}

function phaseLine(view: View, entry: PhaseEntry, nowMs: number): Line {
  const time = formatDuration((entry.endedMs ?? nowMs) - entry.startedMs).padStart(9);
  const name = entry.phase.padEnd(LABEL_WIDTH - 2);
  if (entry.phase === 'stopped') return [['red', `✘ ${name}`], time];
  if (entry.phase === 'complete') return [['green', `✔ ${name}`]];
  const summary = `   ${phaseSummary(view, entry)}`;
  return entry.endedMs === undefined
    ? [['cyan', '▸ '], ['bold', name], time, ['dim', summary]]
    : [['green', '✔ '], name, time, ['dim', summary]];
}

/** What a phase has done, in a few words. */
export function phaseSummary(view: View, entry: PhaseEntry): string {
  if (entry.phase === 'copying' && view.copy !== undefined) {
    const { copy } = view;
    const what = `${formatPlural(copy.tables, 'table')}, ${formatCount(copy.rows)} rows, ${formatBytes(copy.bytes)}`;
    if (entry.endedMs === undefined) return `${copy.tablesCopied} of ${what}`;
    const seconds = Math.max(entry.endedMs - entry.startedMs, 1) / 1000;
    const rows = copy.rows - view.rowsBefore;
    return rows <= 0 ? what : `${what}, ${formatRate(rows / seconds, 'rows')}`;
  }
  if (entry.phase === 'indexing' && view.stepsIndexed > 0 && entry.endedMs !== undefined) {
    return formatPlural(view.stepsIndexed, 'step');
  }
  if (entry.phase === 'following' && view.lag !== undefined) {
    const { transactionsApplied, rowsApplied } = view.lag;
    return `${formatCount(transactionsApplied)} transactions, ${formatCount(rowsApplied)} rows applied`;
  }
  return '';
}

function copyLines(view: View, options: FrameOptions): Line[] {
  const { copy, rates } = view;
  if (copy === undefined) return [];
  const fraction = copy.heapBytesTotal === 0 ? 1 : copy.heapBytes / copy.heapBytesTotal;
  const eta = copyRemainingMs(view);
  const lines: Line[] = [
    [
      label('  copy'),
      ['cyan', bar(fraction, barWidth(options))],
      ` ${formatPercent(fraction)}  ${formatRate(rates.copyRows.perSecond(), 'rows')}`,
      `  ${formatBytes(rates.copyBytes.perSecond())}/s`,
      eta === undefined ? '' : `  ETA ${formatDuration(eta)}`,
    ],
  ];
  const largest = [...view.tables.values()]
    .toSorted((a, b) => b.rowsEstimate - a.rowsEstimate)
    .slice(0, TABLE_BARS_MAX);
  for (const table of largest) {
    const width = Math.floor(barWidth(options) / 2);
    lines.push([
      `    ${clip(tableLabel(table.table), 28).padEnd(28)} `,
      // The estimate may be missing or low; a bar that is full before its time would be a lie.
      ['dim', bar(Math.min(table.rows / Math.max(table.rowsEstimate, 1), 0.99), width)],
      ` ${formatCount(table.rows)} rows`,
    ]);
  }
  return lines;
}

/** From heap bytes, since row counts are estimates until the end. */
export function copyRemainingMs(view: View): number | undefined {
  if (view.copy === undefined) return undefined;
  const left = view.copy.heapBytesTotal - view.copy.heapBytes;
  return remainingMs(left, view.rates.copyHeap.perSecond());
}

function loadLines(view: View): Line[] {
  const { load } = view;
  if (load === undefined) return [];
  return [
    [
      label('load'),
      formatRate(view.rates.load.perSecond(), 'transactions'),
      `  ${formatCount(load.transactions)} committed, ${formatCount(load.rolledBack)} rolled back, `,
      [load.failed === 0 ? 'green' : 'red', `${formatCount(load.failed)} failed`],
    ],
  ];
}

function verifyLines(view: View): Line[] {
  const lines: Line[] = [];
  const { verified, verifying } = view;
  if (verified !== undefined) {
    const isClean = verified.differences === 0;
    const verdict = isClean
      ? '✔ both sides are the same'
      : `✘ ${formatPlural(verified.differences, 'difference')}`;
    lines.push(
      [
        label('verified'),
        [isClean ? 'green' : 'red', verdict],
        verified.lsn === undefined ? '' : ` at ${verified.lsn}`,
        ['dim', view.verifications > 1 ? `  (${formatCount(view.verifications)} times)` : ''],
      ],
      [label(''), ['dim', verifiedCost(verified)]],
    );
    if (verified.unverified.length > 0) {
      lines.push([label(''), ['yellow', `not verified: ${verified.unverified.join(', ')}`]]);
    }
  }
  if (verifying !== undefined) {
    const { tablesVerified, tables, rows } = verifying;
    lines.push([
      label('verifying'),
      `${tablesVerified} of ${formatPlural(tables, 'table')}, ${formatCount(rows)} rows  `,
      ['dim', tableLabel(verifying.table)],
    ]);
  }
  return lines;
}

/** What a verification read, since an incremental one reads only what changed. */
export function verifiedCost(verified: NonNullable<View['verified']>): string {
  const { scope, tables, rows, chunksRead, chunks, elapsedMs } = verified;
  return (
    `${scope}: ${formatPlural(tables, 'table')}, ${formatCount(rows)} rows, ` +
    `${formatCount(chunksRead)} of ${formatPlural(chunks, 'chunk')} read in ${formatDuration(elapsedMs)}`
  );
}

/** `shop.orders`; quoted only where SQL needs it, so that what is read can be typed. */
export function tableLabel(table: TableName): string {
  return [table.schema, table.name]
    .map((name) => (/^[a-z_][a-z0-9_$]*$/.test(name) ? name : quoteIdentifier(name)))
    .join('.');
}

function label(text: string): string {
  return text.padEnd(LABEL_WIDTH);
}

/** What an 80-column terminal leaves for a bar beside its label and figures. */
function barWidth(options: FrameOptions): number {
  return Math.max(8, Math.min(40, options.columns - 60));
}
