import { expect, test } from 'vitest';

import { redact } from './redact.ts';

test.each([
  ["unknown command 'postgres://me:secret@host/db'", "unknown command 'postgres://me:***@host/db'"],
  ['postgresql://me:p@ss:w0rd@host:5432/db', 'postgresql://me:***@host:5432/db'],
  ['postgres://me:a/b@host/db and more', 'postgres://me:***@host/db and more'],
  ['postgres://:secret@host/db', 'postgres://:***@host/db'],
  ['host=h password=secret dbname=d', 'host=h password=*** dbname=d'],
  ["host=h password='se cret' dbname=d", 'host=h password=*** dbname=d'],
  ['postgres://h/db?user=me&password=secret&x=1', 'postgres://h/db?user=me&password=***&x=1'],
])('a password in %j is not repeated', (text, expected) => {
  expect(redact(text)).toBe(expected);
});

test('text without a password stays as it is', () => {
  const text = 'cannot reach postgres://me@host:5432/db: timeout';
  expect(redact(text)).toBe(text);
});
