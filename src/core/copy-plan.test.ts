import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { isBinarySafe } from './binary-safe.ts';
import {
  choosePartBytes,
  copyFormat,
  cutTable,
  PART_BYTES_MAX,
  PART_BYTES_MIN,
  partCondition,
  partsOf,
} from './copy-plan.ts';
import type { Column } from './table.ts';

const MIB = 1024 * 1024;

test('parts cover every page once, in order, and the last has no end', () => {
  fc.assert(
    fc.property(
      fc.nat(1_000_000),
      fc.nat(10_000_000),
      fc.integer({ min: 64, max: 1024 }),
      (pages, toastPages, partMib) => {
        const sourceBytes = (pages + toastPages) * 8192;
        const parts = partsOf(cutTable({ pages, sourceBytes }, partMib * MIB));
        const starts = parts.map((part) => part.firstPage);
        const ends = parts.map((part) => part.endPage);
        expect(ends).toEqual([...starts.slice(1), undefined]);
        expect(starts[0]).toBe(0);
        expect(starts).toEqual(starts.toSorted((a, b) => a - b));
      },
    ),
  );
});

test('a resume computes the same parts from what was recorded', () => {
  const cut = cutTable({ pages: 100_003, sourceBytes: 100_003 * 8192 }, 64 * MIB);
  const recorded = { pages: cut.pages, partPages: cut.partPages, sourceBytes: cut.sourceBytes };
  expect(partsOf(recorded)).toEqual(partsOf(cut));
});

test('an empty table is one part without a condition', () => {
  const parts = partsOf(cutTable({ pages: 0, sourceBytes: 0 }, 64 * MIB));
  expect(parts).toEqual([{ number: 0, firstPage: 0, endPage: undefined, sourceBytes: 0 }]);
  expect(partCondition(parts[0]!)).toBe('true');
});

test('a part is bounded by pages on both sides, the first and the last on one', () => {
  const parts = partsOf({ pages: 25, partPages: 10, sourceBytes: 25 * 8192 });
  expect(parts.map((part) => partCondition(part))).toEqual([
    "(ctid < '(10,0)'::tid)",
    "(ctid >= '(10,0)'::tid) AND (ctid < '(20,0)'::tid)",
    "(ctid >= '(20,0)'::tid)",
  ]);
  expect(partCondition(parts[2]!, 'a OR b')).toBe("(ctid >= '(20,0)'::tid) AND (a OR b)");
});

test('a table with much TOAST behind few pages is cut by its whole size', () => {
  const cut = cutTable({ pages: 100, sourceBytes: 1000 * MIB }, 100 * MIB);
  expect(cut.partPages).toBe(10);
  expect(partsOf(cut)).toHaveLength(10);
});

test('a part has between 64 MiB and 1 GiB', () => {
  expect(choosePartBytes(0, 4)).toBe(PART_BYTES_MIN);
  expect(choosePartBytes(32 * 100 * MIB, 4)).toBe(100 * MIB);
  expect(choosePartBytes(1e15, 4)).toBe(PART_BYTES_MAX);
});

const column = (fields: Partial<Column>): Column => ({
  name: 'c',
  attnum: 1,
  typeOid: 23,
  typeName: 'integer',
  typeKind: 'b',
  elementOid: 0,
  builtinType: 'int4',
  isNotNull: false,
  isGenerated: false,
  identity: '',
  ...fields,
});

test.each([
  ['a built-in scalar', column({}), true],
  ['an array of one', column({ builtinType: '_int4', elementOid: 23 }), true],
  ['an enum', column({ typeKind: 'e', builtinType: undefined }), true],
  [
    'an array of enums carries an OID that differs',
    column({ builtinType: undefined, elementOid: 16_500 }),
    false,
  ],
  ['oid and reg* name an object of the source', column({ builtinType: 'oid' }), false],
  ['regclass', column({ builtinType: 'regclass' }), false],
  ['an array of oid', column({ builtinType: '_oid', elementOid: 26 }), false],
  ['oidvector', column({ builtinType: 'oidvector', elementOid: 26 }), false],
  ['an extension type', column({ builtinType: undefined }), false],
  ['a domain', column({ typeKind: 'd', builtinType: undefined }), false],
  ['a composite', column({ typeKind: 'c', builtinType: undefined }), false],
  ['a range', column({ typeKind: 'r', builtinType: 'int4range' }), false],
])('%s', (_title, input, expected) => {
  expect(isBinarySafe(input)).toBe(expected);
});

test('one unsafe column makes the table text, unless it is generated and does not travel (trap 5)', () => {
  const unsafe = column({ builtinType: 'regclass' });
  expect(copyFormat({ columns: [column({})] })).toBe('binary');
  expect(copyFormat({ columns: [column({}), unsafe] })).toBe('text');
  expect(copyFormat({ columns: [column({}), { ...unsafe, isGenerated: true }] })).toBe('binary');
});
