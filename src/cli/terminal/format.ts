/** Numbers as people read them. Pure; every result is plain text of one line. */

const KIB = 1024;
const SIZE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `812 B`, `4.1 kB`, `12 MB`: two digits that matter; units are Postgres's (1 kB = 1024 B). */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return '–';
  let value = Math.abs(bytes);
  let unit = 0;
  while (value >= 999.5 && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit += 1;
  }
  const digits = unit === 0 || value >= 9.95 ? 0 : 1;
  return `${bytes < 0 ? '-' : ''}${value.toFixed(digits)} ${SIZE_UNITS[unit]}`;
}

/** `1,234,567`; the same on every machine, whatever its locale. */
export function formatCount(count: number | bigint): string {
  return String(typeof count === 'number' ? Math.round(count) : count).replaceAll(
    /\B(?=(\d{3})+$)/g,
    ',',
  );
}

/** `0.3 s`, `12 s`, `4 m 05 s`, `3 h 07 m`, `2 d 04 h`. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return '–';
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} m`;
  return `${Math.floor(whole / 86_400)} d ${two(Math.floor(whole / 3600) % 24)} h`;
}

/** `12 ms` below a second, else as formatDuration. */
export function formatLagTime(ms: number): string {
  return ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : formatDuration(ms);
}

/** `45 rows/s`, `76,200 rows/s`. */
export function formatRate(perSecond: number, noun: string): string {
  return `${Number.isFinite(perSecond) ? formatCount(perSecond) : '–'} ${noun}/s`;
}

/** `1 table`, `2 tables`; nouns that only take an s. */
export function formatPlural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`;
}

/** Milliseconds until `total` at the rate seen, or undefined while that cannot be said. */
export function remainingMs(left: number, perSecond: number): number | undefined {
  if (left <= 0) return 0;
  return perSecond > 0 ? (left / perSecond) * 1000 : undefined;
}

/** `████████░░░░`, exactly `width` cells. */
export function bar(fraction: number, width: number): string {
  const full = Math.round(clamp(fraction) * width);
  return '█'.repeat(full) + '░'.repeat(width - full);
}

/** ` 62 %`; 100 only when nothing is left. */
export function formatPercent(fraction: number): string {
  const percent = Math.floor(clamp(fraction) * 100);
  return `${String(percent).padStart(3)} %`;
}

/** Cut to `width` cells with an ellipsis, keeping the start; names of the catalog may hold anything. */
export function clip(text: string, width: number): string {
  const clean = printable(text);
  if (clean.length <= width) return clean;
  return width <= 1 ? '…'.slice(0, width) : `${clean.slice(0, width - 1)}…`;
}

/** Without control characters: a table may be named to move the cursor. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '�');
}

/** Rows of cells as aligned lines; the columns of `right` are numbers. No trailing blanks. */
export function formatTable(
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    }
  }
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return right.includes(column) ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}

function clamp(fraction: number): number {
  return Number.isFinite(fraction) ? Math.min(1, Math.max(0, fraction)) : 0;
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}

/** Words in lines of at most `width` cells; a longer word gets a line of its own. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
