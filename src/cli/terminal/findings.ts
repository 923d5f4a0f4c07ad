import type { CheckResult, Finding, Fix, Severity } from '#src/shadow/check/finding.ts';

import { formatPlural, printable, wrap } from './format.ts';
import type { Paint, Style } from './paint.ts';
import type { Screen } from './screen.ts';

const HEADINGS: Readonly<Record<Severity, readonly [Style, string]>> = {
  refuse: ['red', 'Refused: a shadow cannot be made before this is mended'],
  warn: ['yellow', 'Warnings: this may matter'],
  info: ['cyan', 'For information: this differs on a shadow, and is meant to'],
};

const FIX_TITLES: Readonly<Record<Fix['runOn'], string>> = {
  source: 'fix, on the source:',
  target: 'fix, on the target:',
  command: 'fix, on the command line:',
  operator: 'fix:',
};

/** Print what `check` has found, and whether a shadow can be made. */
export function printFindings(screen: Screen, { findings, tables }: CheckResult): void {
  // One line of text for all, since people read them in groups; one line of JSON for each.
  if (screen.isJson) {
    for (const finding of findings) {
      screen.print({ type: 'finding', ...finding, fix: finding.fix ?? null }, []);
    }
  }
  const [refusals, warnings] = (['refuse', 'warn'] as const).map(
    (severity) => findings.filter((finding) => finding.severity === severity).length,
  );
  screen.print(
    { type: 'checked', tables: tables.length, refusals: refusals ?? 0, warnings: warnings ?? 0 },
    [...findingLines(findings, screen), checkedText(tables.length, findings)],
  );
}

/** Print what does not keep a clone from starting but may matter to it. */
export function printWarnings(screen: Screen, { findings }: CheckResult): void {
  for (const finding of findings.filter(({ severity }) => severity === 'warn')) {
    screen.print({ type: 'finding', ...finding, fix: finding.fix ?? null }, [
      screen.paint('yellow', 'warning'),
      ...oneFinding(finding, screen),
    ]);
  }
}

/** Findings for people, the worst first: what, why, and SQL that can be run as it is printed. */
export function findingLines(
  findings: readonly Finding[],
  options: { readonly paint: Paint; readonly columns: number },
): string[] {
  const { paint } = options;
  return (['refuse', 'warn', 'info'] as const).flatMap((severity) => {
    const group = findings.filter((finding) => finding.severity === severity);
    if (group.length === 0) return [];
    const [style, heading] = HEADINGS[severity];
    return [
      paint(style, paint('bold', heading)),
      '',
      ...group.flatMap((finding) => oneFinding(finding, options)),
    ];
  });
}

/** What `check` ends with. */
export function checkedText(tables: number, findings: readonly Finding[]): string {
  const refusals = findings.filter(({ severity }) => severity === 'refuse').length;
  const warnings = findings.filter(({ severity }) => severity === 'warn').length;
  const checked = `${formatPlural(tables, 'table')} checked`;
  const counts = `${formatPlural(refusals, 'refusal')}, ${formatPlural(warnings, 'warning')}`;
  return refusals === 0
    ? `${checked}: ready for a shadow (${counts})`
    : `${checked}: not ready for a shadow (${counts})`;
}

function oneFinding(
  finding: Finding,
  { paint, columns }: { readonly paint: Paint; readonly columns: number },
): string[] {
  const lines = [
    `  ${paint('bold', printable(finding.object))}  ${paint('dim', finding.id)}`,
    ...wrap(printable(finding.cause), Math.max(30, columns - 4)).map((line) => `    ${line}`),
  ];
  if (finding.fix !== undefined) {
    const text = finding.fix.text.split('\n').map((line) => printable(line));
    lines.push(`    ${paint('dim', FIX_TITLES[finding.fix.runOn])}`);
    lines.push(...text.map((line) => `      ${paint('green', line)}`));
  }
  return [...lines, ''];
}
