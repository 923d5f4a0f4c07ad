import { formatLsn } from '#src/core/lsn.ts';
import type { Verdict } from '#src/core/schema-change.ts';
import { quoteTable } from '#src/core/table.ts';
import type { RecordedVersion } from '#src/shadow/ddl/version-ledger.ts';

import { printable } from './format.ts';
import type { Paint } from './paint.ts';

const VERDICT: Readonly<Record<Verdict, string>> = {
  'goes on': 'the table goes on',
  resume: 'the table stops until `understudy resume`',
  reseed: 'the table stops until `understudy reseed`',
};

/** One version for people. */
export function versionLines(version: RecordedVersion, paint: Paint): string[] {
  const { table, lsn, isExact, tag, change, verdict, seenAt, columns } = version;
  const position = `${isExact ? 'at' : 'before'} ${formatLsn(lsn)}`;
  const head = `${quoteTable(table)} version ${version.version}`;
  const names = columns.map(({ name, type }) => `${name} ${type}`).join(', ');
  return [
    `${paint('bold', printable(head))}  ${position}, seen ${seenAt.slice(0, 19).replace('T', ' ')}`,
    printable(`  ${tag}: ${change}`),
    paint(verdict === 'goes on' ? 'dim' : 'red', `  ${VERDICT[verdict]}`),
    paint('dim', printable(`  ${names === '' ? 'no columns' : names}`)),
  ];
}
