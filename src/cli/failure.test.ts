import { readFileSync, rmSync, statSync } from 'node:fs';

import { expect, test } from 'vitest';

import { OperatorError } from '#src/lib/errors.ts';

import { describeFailure, exitCodeOf, printFailure, stackOf } from './failure.ts';

const style = { time: '2026-01-01T00:00:00.000Z', bold: (text: string) => text };

test('an operator error is its code, message and hint, without stack and cause', () => {
  const error = new OperatorError('TARGET_NOT_EMPTY', 'table shop.orders exists', {
    cause: new Error('row (1, secret)'),
    detail: { table: 'shop.orders' },
  });
  expect(printFailure(describeFailure(error), { ...style, isJson: false })).toBe(
    `error TARGET_NOT_EMPTY: table shop.orders exists\nhint: ${error.hint}\n`,
  );
  expect(JSON.parse(printFailure(describeFailure(error), { ...style, isJson: true }))).toEqual({
    type: 'error',
    code: 'TARGET_NOT_EMPTY',
    message: 'table shop.orders exists',
    hint: error.hint,
    detail: { table: 'shop.orders' },
    time: style.time,
  });
});

test('an unexpected exception prints neither its message nor its stack, which a private file keeps', () => {
  const error = new TypeError('cannot read "4111-1111" of postgres://me:secret@host/db');
  const failure = describeFailure(error);
  const printed = printFailure(failure, { ...style, isJson: false });
  expect(printed).toMatch(/^error INTERNAL: internal error \(TypeError\)\nhint: .*report.*\n$/);
  expect(printed).not.toMatch(/4111|secret/);
  const file = String(failure.detail['file']);
  try {
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const kept = readFileSync(file, 'utf8');
    expect(kept).toContain('failure.test.ts');
    expect(kept).not.toContain('secret');
  } finally {
    rmSync(file);
  }
});

test('a stack includes those of its causes', () => {
  const error = new Error('outer', { cause: new Error('inner', { cause: 'text' }) });
  expect(stackOf(error)).toMatch(/outer[^]*caused by: Error: inner[^]*caused by: text/);
});

test('a refusal of the pre-flight check has an exit code of its own', () => {
  expect(exitCodeOf(new OperatorError('PREFLIGHT_REFUSED', 'x'))).toBe(2);
  expect(exitCodeOf(new OperatorError('SLOT_LOST', 'x'))).toBe(1);
  expect(exitCodeOf(new TypeError('x'))).toBe(1);
});
