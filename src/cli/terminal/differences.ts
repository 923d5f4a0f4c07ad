import type { ResultLine } from '#src/cli/lines.ts';
import type { Difference } from '#src/core/difference.ts';

import { formatCount, formatPlural, formatTable, printable } from './format.ts';
import { tableLabel } from './frame.ts';
import type { Paint } from './paint.ts';
import type { Screen } from './screen.ts';

/** Rows that people are shown; --json has all that were listed. */
const SHOWN_MAX = 40;

/** Print the rows that differ: table, key, kind and columns. Values other than keys are never shown. */
export function printDifferences(
  screen: Screen,
  found: { readonly listed: readonly Difference[]; readonly differences: number },
): void {
  if (screen.isJson) {
    for (const difference of found.listed) screen.print(differenceLine(difference), []);
    return;
  }
  const [first] = found.listed;
  if (first === undefined) return;
  screen.print(differenceLine(first), differenceLines(found, screen.paint));
}

function differenceLine(difference: Difference): ResultLine {
  const { kind, table } = difference;
  const isRow = 'key' in difference;
  return {
    type: 'difference',
    kind,
    table: { schema: table.schema, name: table.name },
    key: isRow ? difference.key : null,
    columns: isRow ? difference.columns : [],
    cause: isRow ? null : difference.cause,
  };
}

export function differenceLines(
  found: { readonly listed: readonly Difference[]; readonly differences: number },
  paint: Paint,
): string[] {
  const shown = found.listed.slice(0, SHOWN_MAX);
  const [head, ...rows] = formatTable([
    ['table', 'kind', 'key', 'columns'],
    ...shown.map((difference) => [
      printable(tableLabel(difference.table)),
      difference.kind,
      printable('key' in difference ? keyText(difference.key) : difference.cause),
      printable('key' in difference ? difference.columns.join(', ') : ''),
    ]),
  ]);
  const more = found.differences - shown.length;
  return [
    '',
    paint('bold', head ?? ''),
    ...rows,
    ...(more > 0 ? [paint('dim', `… and ${formatPlural(more, 'difference')} more`)] : []),
    '',
    `${formatCount(found.differences)} in all. missing: on the source only; extra: on the target only; changed: in these columns.`,
  ];
}

function keyText(key: Readonly<Record<string, string | null>>): string {
  const entries = Object.entries(key);
  if (entries.length === 0) return '(no key)';
  return entries.map(([column, value]) => `${column}=${value ?? 'NULL'}`).join(' ');
}
