import {
  formatCount,
  formatDuration,
  formatPlural,
  formatTable,
} from '#src/cli/terminal/format.ts';
import type { Paint } from '#src/cli/terminal/paint.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** As it is typed where this runs: in a clone, or where the package is installed. */
const COMMAND = import.meta.url.endsWith('.ts') ? 'bin/understudy' : 'understudy';

/** What the demo says before it begins: what there is, and how to look at it oneself. */
export function openingLines(
  stage: Readonly<Record<'production' | 'shadow', { readonly url: string }>>,
  shop: { readonly tables: number; readonly rows: number },
): string[] {
  const { production, shadow } = stage;
  return [
    `The shop has ${formatPlural(shop.tables, 'table')} and ${formatCount(shop.rows)} rows and is written to from now on.`,
    'While this runs you may look yourself, in another terminal of this folder:',
    '',
    `  SOURCE=${production.url}`,
    `  TARGET=${shadow.url}`,
    `  ${COMMAND} status --target $TARGET`,
    `  ${COMMAND} verify --source $SOURCE --target $TARGET`,
    '',
  ];
}

export type Summary = {
  readonly isClean: boolean;
  readonly verifications: number;
  readonly differences: number;
  readonly transactions: number;
  readonly failed: number;
  readonly elapsedMs: number;
  readonly firstFailure: unknown;
  readonly paint: Paint;
};

/** What was shown, and how to go on with a database of one's own. */
export function finalLines(summary: Summary): string[] {
  const { paint, transactions, failed, verifications, differences } = summary;
  const verdict = summary.isClean
    ? paint('green', '✔ The shadow equalled production, row for row, while production was in use.')
    : verifications === 0
      ? paint('yellow', 'Stopped before the shadow was verified.')
      : paint('red', '✘ This was not a clean run.');
  return [
    '',
    verdict,
    '',
    ...formatTable([
      [
        '  production',
        `${formatPlural(transactions, 'transaction')} committed, ${formatCount(failed)} failed`,
      ],
      [
        '  verified',
        `${formatPlural(verifications, 'time')}, ${formatPlural(differences, 'difference')}`,
      ],
      ['  took', formatDuration(summary.elapsedMs)],
    ]),
    ...failureLines(summary.firstFailure),
    '',
    'For a database of your own (see README.md for the privileges that it needs):',
    '',
    '  SOURCE=postgres://user@production.example.com/db',
    '  TARGET=postgres://user@shadow.example.com/db',
    `  ${COMMAND} check  --source $SOURCE --target $TARGET`,
    `  ${COMMAND} clone  --source $SOURCE --target $TARGET --follow`,
    `  ${COMMAND} verify --source $SOURCE --target $TARGET`,
    '',
  ];
}

function failureLines(firstFailure: unknown): string[] {
  if (firstFailure === undefined) return [];
  const text =
    firstFailure instanceof OperatorError
      ? `${firstFailure.code}: ${firstFailure.message}`
      : 'an internal error';
  return [`  the shop's first failure was ${text}`];
}
