import { expect, test } from 'vitest';

import { plainPaint } from '#src/cli/terminal/paint.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { finalLines, openingLines, type Summary } from './screen.ts';

const CLEAN: Summary = {
  isClean: true,
  verifications: 2,
  differences: 0,
  transactions: 4061,
  failed: 0,
  elapsedMs: 17_400,
  firstFailure: undefined,
  paint: plainPaint,
};

test('a clean run says what it proved, and how to go on with a database of one’s own', () => {
  const lines = finalLines(CLEAN);
  expect(lines.slice(0, 6)).toEqual([
    '',
    '✔ The shadow equalled production, row for row, while production was in use.',
    '',
    '  production  4,061 transactions committed, 0 failed',
    '  verified    2 times, 0 differences',
    '  took        17 s',
  ]);
  for (const command of ['check', 'clone', 'verify']) {
    expect(lines.some((line) => line.includes(`bin/understudy ${command}`))).toBe(true);
  }
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
});

test('a run that was not clean does not look like one', () => {
  const refused = new OperatorError('STATEMENT_FAILED', 'SQLSTATE 23505 on crm.customer');
  const failed = finalLines({ ...CLEAN, isClean: false, failed: 1, firstFailure: refused });
  expect(failed.join('\n')).toContain('✘');
  expect(failed.join('\n')).toContain('STATEMENT_FAILED: SQLSTATE 23505');
  const early = finalLines({ ...CLEAN, isClean: false, verifications: 0 });
  expect(early.join('\n')).toContain('Stopped before');
  expect(early.join('\n')).not.toContain('✔');
});

test('the opening gives both URLs as a shell takes them', () => {
  const lines = openingLines(
    {
      production: { url: 'postgres://postgres:pw@127.0.0.1:1/shop' },
      shadow: { url: 'postgres://postgres:pw@127.0.0.1:2/shop' },
    },
    { tables: 29, rows: 298_729 },
  );
  expect(lines).toContain('  SOURCE=postgres://postgres:pw@127.0.0.1:1/shop');
  expect(lines).toContain('  TARGET=postgres://postgres:pw@127.0.0.1:2/shop');
});
