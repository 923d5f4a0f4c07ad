import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { insertMessage, tupleOfBytes } from '#test/pgoutput-encoder.ts';

import { ChangeBatch } from './change-batch.ts';
import { keyOf } from './keyed-changes.ts';
import type { KeyedTable } from './net-entry.ts';
import { TAG } from './pgoutput.ts';

const tableOf = (columns: number): KeyedTable => ({
  oid: 1,
  name: { schema: 'public', name: 't' },
  keyIndexes: Array.from({ length: columns }, (_, i) => i),
});

/** Small numbers in four bytes and in eight, and bytes that are none. */
const anyValue = fc.oneof(
  fc.tuple(fc.boolean(), fc.integer({ min: -3, max: 3 })).map(([isLong, number]) => {
    const bytes = Buffer.alloc(isLong ? 8 : 4);
    if (isLong) bytes.writeBigInt64BE(BigInt(number));
    else bytes.writeInt32BE(number);
    return bytes;
  }),
  fc.uint8Array({ maxLength: 9 }).map((bytes) => Buffer.from(bytes)),
);

test.each(['t', 'b'] as const)(
  'two keys of %s columns are one exactly if their bytes are',
  (kind) => {
    const anyKeys = fc
      .integer({ min: 1, max: 3 })
      .chain((columns) =>
        fc.tuple(
          fc.array(anyValue, { minLength: columns, maxLength: columns }),
          fc.array(anyValue, { minLength: columns, maxLength: columns }),
        ),
      );
    fc.assert(
      fc.property(anyKeys, ([one, other]) => {
        const table = tableOf(one.length);
        const isSame = one.every((bytes, i) => bytes.equals(other[i]!));
        const keys = [one, other].map((values) => keyOf(table, tupleOfBytes(values, kind), 0));
        expect(keys[0] === keys[1]).toBe(isSame);
      }),
      { numRuns: 3_000, seed: 12 },
    );
  },
);

test('bytea keys that are the same number, in four bytes and in eight, are two rows', () => {
  const batch = new ChangeBatch<KeyedTable>();
  for (const key of ['00000001', '0000000000000001', '80000000', 'ffffffff80000000']) {
    const bytes = insertMessage(1, tupleOfBytes([Buffer.from(key, 'hex')], 'b'));
    batch.addRow(tableOf(1), { tag: TAG.insert, bytes, body: 1, end: bytes.length });
  }
  const [step] = batch.steps;
  expect(step?.kind === 'net' && [...step.tables.get(1)!.entries()].length).toBe(4);
});
