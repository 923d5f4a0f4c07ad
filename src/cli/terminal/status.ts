import type { ShadowStatus, StoppedTable } from '#src/shadow/status.ts';

import {
  formatBytes,
  formatCount,
  formatDuration,
  formatPlural,
  formatTable,
  printable,
} from './format.ts';
import { behindText, lagText, walText } from './ladder.ts';
import type { Paint } from './paint.ts';

/** A lag that nobody has measured for this long says where things were, not where they are. */
const STALE_MS = 10_000;

/** One shadow for people: what it is, how far it is, and what it costs the source. */
export function statusLines(status: ShadowStatus, paint: Paint): string[] {
  const rows: string[][] = [
    ['  source', status.source],
    ['  phase', phaseText(status, paint)],
    ['  run by', runnerText(status, paint)],
    [
      '  copied',
      `${formatCount(status.tablesCopied)} of ${formatPlural(status.tables, 'table')}, ${formatCount(status.rowsCopied)} rows; ` +
        `${formatCount(status.stepsDone)} of ${formatPlural(status.steps, 'step')}`,
    ],
    ...largeObjectRows(status, paint),
    ...lagRows(status, paint),
    ['  verified', verificationText(status, paint)],
    ...(status.slotName === undefined ? [] : [['  slot', status.slotName]]),
    ...(status.spoolDirectory === undefined ? [] : [['  spool', status.spoolDirectory]]),
  ];
  return [
    paint('bold', `shadow ${status.shadowId}`),
    ...formatTable(rows.map((row) => row.map(printableCell))),
    ...status.stoppedTables.flatMap((table) => stoppedLines(status, table, paint)),
    ...status.definitionOnly.map(({ table, reason }) =>
      paint('yellow', printable(`  ! table ${table} has no rows here: ${reason}`)),
    ),
    '',
  ];
}

/** What happened to a table, since when, and what it waits for. */
function stoppedLines(status: ShadowStatus, stopped: StoppedTable, paint: Paint): string[] {
  const { table, state, reason, waitsFor, stopLsn, stoppedAt, spoolBytes, foreignKeys } = stopped;
  const verb = state === 'stopped' ? 'does not follow' : `is ${state}`;
  const since = [stoppedAt ?? '', stopLsn === undefined ? '' : `at ${stopLsn}`].filter(Boolean);
  const kept = formatBytes(spoolBytes);
  const keptMax = formatBytes(status.stoppedSpoolBytesMax);
  const rest = [
    since.length === 0 ? '' : `stopped ${since.join(' ')}`,
    state === 'stopped' && waitsFor !== undefined ? `waits for \`understudy ${waitsFor}\`` : '',
    spoolBytes === 0 ? '' : `${kept} of the spool kept for it (at most ${keptMax})`,
    foreignKeys.length === 0 ? '' : `foreign keys with ${foreignKeys.join(', ')}`,
  ].filter(Boolean);
  return [
    paint('red', printable(`  ✘ table ${table} ${verb}: ${reason}`)),
    ...(rest.length === 0 ? [] : [printable(`      ${rest.join('; ')}`)]),
  ];
}

function phaseText(status: ShadowStatus, paint: Paint): string {
  if (status.stop === undefined) return status.phase;
  return paint('red', `stopped by ${status.stop.code}: ${status.stop.message}`);
}

function runnerText(status: ShadowStatus, paint: Paint): string {
  if (status.isRunning) return status.holder ?? 'some process';
  if (status.phase === 'complete') return 'nobody; it is complete';
  const last = status.holder === undefined ? '' : ` (${status.holder} was the last)`;
  return paint('yellow', `nobody now${last}; run the same clone again, it resumes`);
}

function latenessText({ isLate, maxLagMs }: ShadowStatus, paint: Paint): string {
  if (maxLagMs === undefined) return '';
  const tolerance = formatDuration(maxLagMs);
  return isLate ? paint('red', `, late: tolerance ${tolerance}`) : `, tolerance ${tolerance}`;
}

function lagRows(status: ShadowStatus, paint: Paint): string[][] {
  const { lag, sourceWalEtaMs } = status;
  if (lag === undefined) return [];
  const isStale = lag.ageMs > STALE_MS;
  const age = isStale ? paint('yellow', `, as of ${formatDuration(lag.ageMs)} ago`) : '';
  const rung = (name: string, lsn: string): string[] => {
    const behind = behindText(lag.sourceHeadLsn, lsn);
    return [`    ${name}`, behind === '' ? lsn : `${lsn}  ${behind}`];
  };
  return [
    ['  lag', `${lagText(lag)}${age}${latenessText(status, paint)}`],
    rung('source head', lag.sourceHeadLsn),
    rung('sent', lag.sentLsn),
    rung('received', lag.receivedLsn),
    rung('durable', lag.durableLsn),
    rung('applied', lag.appliedLsn),
    ['  source WAL', walText(lag, sourceWalEtaMs)],
  ];
}

function largeObjectRows({ largeObjects }: ShadowStatus, paint: Paint): string[][] {
  if (largeObjects === undefined) return [];
  const { state, objects, bytes, unreadable, changedAt } = largeObjects;
  if (objects + unreadable === 0 && changedAt === undefined) return [];
  const notes = [
    ...(state === 'copied' ? [] : ['being copied']),
    ...(unreadable === 0 ? [] : [paint('yellow', `${formatCount(unreadable)} may not be read`)]),
    changedAt === undefined
      ? 'unchanged on the source since'
      : paint('yellow', `may have changed on the source since, seen at ${changedAt}`),
  ];
  return [
    ['  large objects', `${formatCount(objects)} (${formatBytes(bytes)}); ${notes.join('; ')}`],
  ];
}

function verificationText({ verification }: ShadowStatus, paint: Paint): string {
  if (verification === undefined) return paint('yellow', 'never');
  const { scope, fenceLsn, finishedAt, differences } = verification;
  const verdict =
    differences === 0
      ? paint('green', 'both sides were the same')
      : paint('red', formatPlural(differences, 'difference'));
  const at = fenceLsn === undefined ? '' : ` at ${fenceLsn}`;
  return `${verdict}${at} (${scope}, ${finishedAt ?? ''})`;
}

/** Our own colours stay; what came from a server loses its control characters. */
function printableCell(cell: string): string {
  // oxlint-disable-next-line no-control-regex -- the escape that begins a colour of ours
  return cell.replaceAll(/(\u001B\[\d+m)|\p{Cc}/gu, (_, colour?: string) => colour ?? '�');
}
