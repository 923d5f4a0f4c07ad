import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { OperatorError } from '#src/lib/errors.ts';

import {
  compileSchemaPattern,
  compileTablePattern,
  exactPattern,
  selectRelations,
  type Selectable,
} from './selection-pattern.ts';
import { EVERYTHING, type Selection } from './selection.ts';

// Each verdict was compared with what `pg_dump --strict-names -t pattern` of version 15 dumps.
test.each<[pattern: string, name: string, matches: boolean]>([
  ['orders', 'orders', true],
  ['orders', 'orders_2', false],
  ['ORDERS', 'orders', true],
  ['Orders', 'Orders', false],
  ['"Orders"', 'Orders', true],
  ['or"D"ers', 'orDers', true],
  ['"a""b"', 'a"b', true],
  ['ord*', 'orders', true],
  ['ord*', 'ord', true],
  ['*', 'anything', true],
  ['order?', 'orders', true],
  ['order?', 'order', false],
  ['?', '😀', true],
  ['"order?"', 'orders', false],
  ['"a.b"', 'a.b', true],
  ['orders|items', 'items', true],
  ['orders|items', 'items2', false],
  ['(a|b)c', 'bc', true],
  ['part_[0-9]+', 'part_2024', true],
  ['part_[^0-9]', 'part_x', true],
  ['part_[^0-9]', 'part_1', false],
  ['part_[[:digit:]]', 'part_7', true],
  ['part_[[:digit:]]', 'part_x', false],
  ['a[]', 'a[]', true],
  ['a{2}', 'aa', true],
  ['a$b', 'a$b', true],
  ['a"$"b', 'a$b', true],
  ['"a|b"', 'a', false],
  ['a/b', 'a/b', true],
  ['É', 'é', false],
])('the pattern %j and the table %j', (pattern, name, matches) => {
  expect(compileTablePattern(pattern)({ schema: 's', name })).toBe(matches);
});

test.each<[pattern: string, schema: string, name: string, matches: boolean]>([
  ['shop.orders', 'shop', 'orders', true],
  ['shop.orders', 'attic', 'orders', false],
  ['orders', 'attic', 'orders', true],
  ['sh*.o*', 'shop', 'orders', true],
  ['"S h"."T.x"', 'S h', 'T.x', true],
  ['shop.', 'shop', 'anything', true],
])('the pattern %j and the table %j.%j', (pattern, schema, name, matches) => {
  expect(compileTablePattern(pattern)({ schema, name })).toBe(matches);
});

test.each([
  ['a.b.c', 'more than one dot'],
  ['"open', 'not closed'],
  ['a\\d', 'backslash'],
  ['(a', 'not a regular expression'],
  ['', 'empty'],
])('refuses %j and says why', (pattern, why) => {
  expect(() => compileTablePattern(pattern)).toThrow(why);
  expect(() => compileTablePattern(pattern)).toThrow(OperatorError);
});

test('a schema pattern has no dot', () => {
  expect(() => compileSchemaPattern('a.b')).toThrow('no dot');
  expect(compileSchemaPattern('"a.b"')({ schema: 'a.b', name: 't' })).toBe(true);
});

const anyName = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 });

test('the exact pattern of a name matches it, and no other', () => {
  fc.assert(
    fc.property(anyName, anyName, anyName, (schema, name, other) => {
      const matches = compileTablePattern(exactPattern({ schema, name }));
      expect(matches({ schema, name })).toBe(true);
      expect(matches({ schema, name: other })).toBe(other === name);
    }),
  );
});

function verdict(pattern: string): string {
  try {
    return String(compileTablePattern(pattern)({ schema: 's', name: 'n' }));
  } catch (error) {
    return error instanceof OperatorError ? error.code : String(error);
  }
}

test('an arbitrary text is a pattern or CONFIG_INVALID, never another error', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      expect(verdict(text)).toMatch(/^(true|false|CONFIG_INVALID)$/);
    }),
  );
});

const root = { schema: 'shop', name: 'events', ancestors: [] };
const inner = { schema: 'shop', name: 'events_a', ancestors: [root] };
const leaf = { schema: 'attic', name: 'events_a1', ancestors: [inner, root] };
const orders = { schema: 'shop', name: 'orders', ancestors: [] };
const RELATIONS: readonly Selectable[] = [root, inner, leaf, orders];

function selected(selection: Partial<Selection>): readonly string[] {
  return selectRelations({ ...EVERYTHING, ...selection }, RELATIONS).map(({ name }) => name);
}

test('no pattern selects everything', () => {
  expect(selected({})).toEqual(['events', 'events_a', 'events_a1', 'orders']);
});

test('what selects a partitioned table selects its leaves, also those in another schema', () => {
  expect(selected({ tables: ['events'] })).toEqual(['events', 'events_a', 'events_a1']);
  expect(selected({ schemas: ['shop'], exclude: ['orders'] })).toContain('events_a1');
});

test('schemas and tables add up, and excludes win', () => {
  expect(selected({ schemas: ['attic'], tables: ['orders'] })).toEqual(['events_a1', 'orders']);
  expect(selected({ schemas: ['shop'], exclude: ['events*'] })).toEqual(['orders']);
  expect(selected({ tables: ['events_a1'], exclude: ['events'] })).toEqual([]);
});

test('a pattern that matches nothing is named, an exclude may match nothing', () => {
  expect(selected({ exclude: ['nothing'] })).toHaveLength(4);
  expect(() => selected({ tables: ['orders', 'ordres'] })).toThrow('--table ordres');
  expect(() => selected({ schemas: ['atic'] })).toThrow('--schema atic');
});
