import { expect, test } from 'vitest';

import { type ErrorText, safeMessage } from './safe-message.ts';

const ERROR: ErrorText = {
  message: 'zqrow',
  code: undefined,
  schema: undefined,
  table: undefined,
  column: undefined,
  constraint: undefined,
  routine: undefined,
  hasContext: false,
  isOfInnerStatement: false,
};

const KEPT: readonly Partial<ErrorText>[] = [
  { code: '42P01' },
  // Of a statement inside of a function, which a restored function without a search_path often meets.
  { code: '42P01', hasContext: true, isOfInnerStatement: true },
  { code: '42601' },
  { code: '42501', hasContext: true },
  { code: '53100', hasContext: true },
  { code: '55P03' },
  { code: '0A000' },
  { code: 'XX001' },
];

const WITHHELD: readonly Partial<ErrorText>[] = [
  {},
  { code: '22P02' },
  { code: '23505' },
  { code: 'P0001' },
  { code: '38001' },
  { code: 'XX000' },
  { code: 'UX001' },
  // A RAISE with any SQLSTATE that it likes.
  { code: '55000', routine: 'exec_stmt_raise', hasContext: true },
  { code: '42501', routine: 'exec_stmt_raise', hasContext: true },
  // A text that is no name of a relation, on its way into a column of type regclass.
  { code: '42P01', hasContext: true },
  // A statement that a function made of values.
  { code: '42601', hasContext: true, isOfInnerStatement: true },
];

test('a message of the server is told only where it cannot quote a value (trap 21)', () => {
  for (const error of KEPT) expect(safeMessage({ ...ERROR, ...error })).toBe('zqrow');
  for (const error of WITHHELD) {
    expect(safeMessage({ ...ERROR, ...error })).toBe(`SQLSTATE ${error.code ?? ''}`);
  }
});

test('what is withheld leaves its SQLSTATE, its object and the place in the server (trap 21)', () => {
  const about = { schema: 's', table: 't', constraint: 'c' };
  expect(safeMessage({ ...ERROR, ...about, code: '23505' })).toBe('SQLSTATE 23505 on s.t.c');
  expect(safeMessage({ ...ERROR, code: 'XX000', routine: 'relation_open' })).toBe(
    'SQLSTATE XX000 in relation_open()',
  );
});
