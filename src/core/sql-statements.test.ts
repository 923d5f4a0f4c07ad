import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { splitScript } from './sql-statements.ts';

const statements = (script: string) =>
  [...splitScript(script)].filter((piece) => piece.kind === 'statement').map((piece) => piece.text);

test.each<[reason: string, statement: string]>([
  ['a literal', `SELECT ';', 'it''s;', '\\'`],
  ['a literal with escapes', `SELECT E'\\';', E'a\\\\', e';'`],
  ['a quoted name', `SELECT 1 AS "a;""b;"`],
  ['a dollar quote', `DO $$ BEGIN; END; $$`],
  ['a tagged dollar quote', `DO $a$ $$ ; $b$ ; $$ $a$`],
  ['a name with a dollar', `SELECT a$b, c$b$`],
  ['a parameter', `PREPARE x AS SELECT $1, $2`],
  ['a line comment', `SELECT 1 -- ; '\n, 2`],
  ['nested block comments', `SELECT /* ; /* ' ; */ ; */ 2`],
  ['parentheses', `CREATE RULE r AS ON DELETE TO s.t DO (SELECT 1; SELECT 2)`],
  [
    'a body of statements',
    `CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END`,
  ],
  ['an empty body', `CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC END`],
  ['letters that are not ASCII', `SELECT größe, "таблица;"`],
])('a statement is not cut inside of %s', (_reason, statement) => {
  expect(statements(`${statement};\n\nSELECT 2;`)).toEqual([statement, 'SELECT 2']);
});

test('BEGIN outside of a routine is a statement of its own', () => {
  expect(statements('BEGIN; SELECT 1; END;')).toEqual(['BEGIN', 'SELECT 1', 'END']);
});

test('only comments between statements are pieces', () => {
  expect([...splitScript('-- one\n\n--two\nSELECT 1 -- three\n;\n-- four')]).toEqual([
    { kind: 'comment', text: '-- one' },
    { kind: 'comment', text: '--two' },
    { kind: 'statement', text: 'SELECT 1 -- three' },
    { kind: 'comment', text: '-- four' },
  ]);
});

test('empty statements and an unterminated end are tolerated', () => {
  expect(statements(" ; ;; SELECT 1; SELECT 'a;")).toEqual(['SELECT 1', `SELECT 'a;`]);
  expect(statements('')).toEqual([]);
});

/** Tokens in which a semicolon ends nothing, and plain ones. */
const anyToken = fc.oneof(
  fc.constantFrom('a', 'select', 'e', '$1', '1.5', '+', ',', 'größe', 'x$y'),
  fc
    .string({ unit: fc.constantFrom(';', "''", '\\', '"', '$$', '--', '/*', 'ü') })
    .map((text) => `'${text}'`),
  fc.string({ unit: fc.constantFrom(';', "\\'", '\\\\', "''", '$$') }).map((text) => `E'${text}'`),
  fc.string({ unit: fc.constantFrom(';', '""', "'", '\\', '--') }).map((text) => `"${text}"`),
  fc
    .string({ unit: fc.constantFrom(';', "'", '$', '$b$', '--', '/*') })
    .map((text) => `$a$${text}$a$`),
  fc.string({ unit: fc.constantFrom(';', "'", '"', '$$') }).map((text) => `/*${text}/*;*/*/`),
  fc.string({ unit: fc.constantFrom(';', "'", '$$', '/*') }).map((text) => `--${text}\n`),
  fc.string({ unit: fc.constantFrom(';', "';'", 'b', ' ') }).map((text) => `(${text})`),
);
const anyStatement = fc
  .array(anyToken, { maxLength: 6 })
  .map((tokens) => ['SELECT', ...tokens, '1'].join(' '));

test('whatever is in them, statements come back as they were put together', () => {
  fc.assert(
    fc.property(fc.array(anyStatement), (all) => {
      expect(statements(all.map((one) => `${one};\n`).join(''))).toEqual(all);
    }),
    { numRuns: 500, seed: 4 },
  );
});
