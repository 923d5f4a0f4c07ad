import { array, check, constantFrom, property } from 'fast-check';
import { describe, expect, test } from 'vitest';

import {
  conjunction,
  isOneExpression,
  parseColumnExclusion,
  parseRowFilter,
  sortFilters,
} from './row-filter.ts';

describe('a filter names its table as SQL does', () => {
  test.each([
    ['shop.orders: id > 10', { schema: 'shop', name: 'orders', predicate: 'id > 10' }],
    ['Shop.Orders:id>10', { schema: 'shop', name: 'orders', predicate: 'id>10' }],
    [
      ' "Shop" . "a.b:""c""" : x = \'a: b\'',
      { schema: 'Shop', name: 'a.b:"c"', predicate: "x = 'a: b'" },
    ],
    ['größe.ÄÖ: true', { schema: 'größe', name: 'ÄÖ', predicate: 'true' }],
  ])('%s', (text, expected) => {
    expect(parseRowFilter(text)).toEqual(expected);
  });

  test.each(['orders: id > 10', 'a.b.c: x', 'a.b', 'a.b:', 'a.b: ', 'a."b: x', 'a.*: x', '1.b: x'])(
    'and not as %s',
    (text) => {
      expect(() => parseRowFilter(text)).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    },
  );

  test('a column likewise', () => {
    expect(parseColumnExclusion('shop."Card".number')).toEqual({
      schema: 'shop',
      name: 'Card',
      column: 'number',
    });
    for (const text of ['shop.card', 'a.b.c.d', 'a.b.c d', 'a.b.*']) {
      expect(() => parseColumnExclusion(text)).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    }
  });

  test('a table is filtered once, and the order of filters means nothing', () => {
    const [a, b] = [parseRowFilter('s.a: x'), parseRowFilter('s.b: y')];
    expect(sortFilters('--where', [b, a])).toEqual(sortFilters('--where', [a, b]));
    expect(() => sortFilters('--where', [a, b, parseRowFilter('S.A: z')])).toThrow(
      '--where is given twice for s.a',
    );
    const columns = ['s.a.x', 's.a.y'].map(parseColumnExclusion);
    expect(sortFilters('--exclude-column', columns)).toHaveLength(2);
  });
});

describe('a predicate stays within the parentheses that we put around it', () => {
  test.each([
    "a = 'it''s; -- /* ) '",
    'lower("odd;)--") = \'x\'',
    '(a OR b) AND c[1] > 2',
    "code ~ '^\\d+$'",
    "e = 'x' AND ee='y'",
    'a - -1 < b / 2 * 3',
    "x = b'01' OR u&'\\0041' = y",
    "größe = 'Ä'",
  ])('accepts %s', (text) => {
    expect(isOneExpression(text)).toBe(true);
  });

  test.each([
    'true) OR (true',
    'true; DROP TABLE shop.orders',
    'true -- ',
    'true /* ',
    '(true',
    'a[1',
    '(a]',
    "a = 'x",
    'a = "x',
    "a = E'\\') OR (true) OR (a = '",
    "a = e'x'",
    'a = $$x$$',
    'a = $1',
    '1$$ ) $$',
    'a = \\',
    'a\0',
    "a = 'x\0'",
  ])('refuses %j', (text) => {
    expect(isOneExpression(text)).toBe(false);
  });

  test('whatever it is made of', () => {
    const piece = constantFrom('(', ')', "'", '"', '-', '/', '*', ';', '$', 'a', 'e', ' ', '1');
    const texts = array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));
    // Ours is stricter about E'' strings; whatever it accepts must be inside.
    const isSafe = property(texts, (text) => !isOneExpression(text) || isInside(text));
    expect(check(isSafe, { numRuns: 5_000 }).counterexample).toBeNull();
  });

  test('conditions are joined each in its own parentheses', () => {
    expect(conjunction()).toBe('true');
    expect(conjunction('a OR b', undefined, 'c')).toBe('(a OR b) AND (c)');
  });
});

/** A lexer written another way: take out what is quoted and what is a name, then look at what is left. */
function isInside(text: string): boolean {
  const left = text.replaceAll(/'(?:[^']|'')*'|"(?:[^"]|"")*"|[a-z][a-z0-9$]*/g, ' q ');
  let depth = 0;
  for (const char of left) {
    if (char === '(') depth += 1;
    if (char === ')') depth -= 1;
    if (depth < 0) return false;
  }
  return depth === 0 && !/['";$\\\0]|--|\/\*/.test(left);
}
