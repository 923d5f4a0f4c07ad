import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { chooseStrategy, chunkOfInteger, chunkOfText, hashChunks, rangeWidth } from './chunk.ts';

const int8 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const width = fc.bigInt({ min: 1n, max: 2n ** 63n - 1n });

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

test('the width follows from the keys, and a chunk then holds about 20,000 rows', () => {
  expect(rangeWidth({ low: 1n, high: 1_000_000n, rows: 1_000_000n })).toBe(20_000n);
  expect(rangeWidth({ low: 1n, high: 1_000_000n, rows: 100_000n })).toBe(200_000n);
  expect(rangeWidth({ low: -(2n ** 63n), high: 2n ** 63n - 1n, rows: 3n })).toBe(2n ** 63n - 1n);
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
