import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { chooseStrategy, chunkOfInteger, chunkOfText, hashChunks, rangeWidth } from './chunk.ts';

const int8 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const width = fc.integer({ min: 0, max: 62 }).map((shift) => 1n << BigInt(shift));

test('a range chunk holds exactly the keys between its bounds, below zero too', () => {
  fc.assert(
    fc.property(int8, width, (key, size) => {
      const chunk = chunkOfInteger({ strategy: 'range', column: 'id', width: size }, key);
      expect(chunk * size <= key && key < (chunk + 1n) * size).toBe(true);
    }),
  );
});

test('a key gives the same chunk as text, as bytes and as a number', () => {
  fc.assert(
    fc.property(int8, width, (key, size) => {
      const range = { strategy: 'range', column: 'id', width: size } as const;
      expect(chunkOfText(range, String(key))).toBe(chunkOfInteger(range, key));
      expect(chunkOfText(range, Buffer.from(String(key)))).toBe(chunkOfInteger(range, key));
      const hash = { ...range, strategy: 'hash' } as const;
      expect(chunkOfText(hash, `ä${key}`)).toBe(chunkOfText(hash, Buffer.from(`ä${key}`)));
    }),
  );
});

test('the width follows from the keys, so that a chunk holds 20,000 to 40,000 rows', () => {
  expect(rangeWidth({ low: 1n, high: 1_000_000n, rows: 1_000_000n })).toBe(32_768n);
  expect(rangeWidth({ low: 1n, high: 1_000_000n, rows: 100_000n })).toBe(262_144n);
  expect(rangeWidth({ low: 1n, high: 1n, rows: 1n })).toBe(32_768n);
  expect(rangeWidth({ low: 0n, high: 0n, rows: 0n })).toBe(32_768n);
  expect(rangeWidth({ low: 2n ** 61n, high: 2n ** 61n + 2n ** 40n, rows: 2n })).toBe(2n ** 54n);
  expect(rangeWidth({ low: -(2n ** 63n), high: 2n ** 63n - 1n, rows: 50_000n })).toBe(2n ** 62n);
  const middle = { low: 10_000n, high: 990_000n };
  expect(rangeWidth({ low: 1n, high: 2n ** 62n, rows: 1_000_000n, middle })).toBe(32_768n);
  expect(rangeWidth({ low: 1n, high: 2n ** 62n, rows: 9_000_000n, middle })).toBe(2n ** 46n);
  expect(hashChunks(0n)).toBe(1n);
  expect(hashChunks(1_000_000n)).toBe(64n);
});

test.each([
  ['int4', 'range'],
  ['int8', 'range'],
  ['varchar', 'hash'],
  ['uuid', 'hash'],
  ['bpchar', 'whole'],
  ['timestamptz', 'whole'],
  [undefined, 'whole'],
])('a leading key column of type %s is chunked by %s', (builtinType, strategy) => {
  const columns = [
    { name: 'note', builtinType: 'jsonb' },
    { name: 'k', builtinType },
  ];
  expect(chooseStrategy({ columns, key: ['k', 'note'] }).strategy).toBe(strategy);
  expect(chooseStrategy({ columns, key: [] }).strategy).toBe('whole');
});
