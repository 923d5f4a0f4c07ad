import type { Endpoint } from '#src/core/endpoint.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { CheckResult, Finding } from '#src/shadow/check/finding.ts';
import { type CheckOptions, runCheck } from '#src/shadow/check/run-check.ts';

export type CheckSides = { readonly source: Endpoint; readonly target: Endpoint };

const GIB = 1024 ** 3;
const DAY_S = 86_400;

/** Run the check over connections of its own, as the command does, with everything selected and followed. */
export async function check(
  sides: CheckSides,
  options: Partial<CheckOptions> = {},
): Promise<CheckResult> {
  await using source = await openSession(sides.source, { applicationName: 'understudy test' });
  await using target = await openSession(sides.target, { applicationName: 'understudy test' });
  return await runCheck({
    source,
    target,
    selection: EVERYTHING,
    isFollowed: true,
    sourceWalBytesMax: 10 * GIB,
    // The server is shared: what other tests leave open is not about us.
    ages: { openSMax: DAY_S, preparedSMax: DAY_S },
    ...options,
  });
}

/** `id object`, of the findings with this severity. */
export function named(
  result: CheckResult,
  severity: Finding['severity'] = 'refuse',
): readonly string[] {
  return result.findings
    .filter((finding) => finding.severity === severity)
    .map(({ id, object }) => `${id} ${object}`)
    .toSorted();
}

/** Apply every fix of every refusal, as its text says; the selection with the options that they add. */
export async function applyFixes(
  result: CheckResult,
  admin: { readonly source: Session; readonly target: Session },
  selection: Selection = EVERYTHING,
): Promise<Selection> {
  let fixed = selection;
  for (const { id, severity, fix } of result.findings) {
    if (severity !== 'refuse') continue;
    if (fix === undefined) throw new Error(`${id} is a refusal without a fix`);
    if (fix.runOn === 'source' || fix.runOn === 'target') await admin[fix.runOn].query(fix.text);
    else fixed = addOption(fixed, fix.text);
  }
  return fixed;
}

function addOption(selection: Selection, text: string): Selection {
  const [, option, quoted] = /^--(table|exclude) '(.*)'$/s.exec(text) ?? [];
  if (option === undefined || quoted === undefined) throw new Error(`not an option: ${text}`);
  const pattern = quoted.replaceAll(`'\\''`, `'`);
  return option === 'table'
    ? { ...selection, tables: [...selection.tables, pattern] }
    : { ...selection, exclude: [...selection.exclude, pattern] };
}
