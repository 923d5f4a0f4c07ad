import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { type Chunking, chunkOfInteger, chunkOfText } from '#src/core/chunk.ts';
import { lsn } from '#src/core/lsn.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';
import { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { TAG } from '#src/wire/postgres/pgoutput.ts';
import { testFollowedTable } from '#test/followed-table.ts';
import { insertMessage, tupleOfBytes, updateMessage } from '#test/pgoutput-encoder.ts';

import { DirtyMarks } from './dirty-marks.ts';
import type { FollowedTable } from './followed-table.ts';

const INT2 = 21;
const INT4 = 23;
const INT8 = 20;
const TEXT = 25;
const UUID = 2950;

const LSN = lsn(0x10n);

/** Chunks and tables that the statements mark, as `oid:chunk` and `oid`. */
function marksOf(statements: readonly string[]): { chunks: string[]; tables: string[] } {
  const chunks: string[] = [];
  const tables: string[] = [];
  for (const sql of statements) {
    const [first = '', second = ''] = [...sql.matchAll(/'\{([^}]*)\}'/g)].map((match) => match[1]!);
    if (sql.includes('dirty_table')) tables.push(...first.split(','));
    else {
      const numbers = second.split(',');
      chunks.push(...first.split(',').map((oid, i) => `${oid}:${numbers[i]}`));
    }
  }
  return { chunks: chunks.toSorted(), tables };
}

function keyBytes(typeOid: number, format: ValueFormat, key: bigint | string): Buffer {
  if (format === 'text') return Buffer.from(String(key));
  if (typeOid === UUID) return Buffer.from(String(key).replaceAll('-', ''), 'hex');
  if (typeof key === 'string') return Buffer.from(key);
  const bytes = Buffer.alloc(typeOid === INT2 ? 2 : typeOid === INT4 ? 4 : 8);
  if (typeOid === INT2) bytes.writeInt16BE(Number(key));
  else if (typeOid === INT4) bytes.writeInt32BE(Number(key));
  else bytes.writeBigInt64BE(key);
  return bytes;
}

function insert(batch: ChangeBatch<FollowedTable>, table: FollowedTable, key: Buffer): void {
  const bytes = insertMessage(
    table.oid,
    tupleOfBytes([null, key], table.format === 'text' ? 't' : 'b'),
  );
  batch.addRow(table, { tag: TAG.insert, bytes, body: 1, end: bytes.length });
}

const tableOf = (typeOid: number, format: ValueFormat, chunking: Chunking): FollowedTable =>
  testFollowedTable({
    oid: 9,
    columns: { note: TEXT, id: typeOid },
    key: ['id'],
    format,
    chunking,
  });

const width = fc.integer({ min: 11, max: 62 }).map((bits) => 2n ** BigInt(bits));
const integer = (bits: number): fc.Arbitrary<bigint> =>
  fc.oneof(
    fc.bigInt({ min: -(2n ** BigInt(bits - 1)), max: 2n ** BigInt(bits - 1) - 1n }),
    fc.constantFrom(-1n, 0n, 1n, -(2n ** BigInt(bits - 1)), 2n ** BigInt(bits - 1) - 1n),
  );

describe.each(['text', 'binary'] as const)('marks of a %s stream', (format) => {
  test.each([
    ['int2', INT2, 16],
    ['int4', INT4, 32],
    ['int8', INT8, 64],
  ])('are the chunks of the plan, for keys of %s', (_, typeOid, bits) => {
    fc.assert(
      fc.property(integer(bits), width, (key, wide) => {
        const chunking = { strategy: 'range', column: 'id', width: wide } as const;
        const batch = new ChangeBatch<FollowedTable>();
        insert(batch, tableOf(typeOid, format, chunking), keyBytes(typeOid, format, key));
        const marks = new DirtyMarks('0badcafe');
        marks.add(batch);
        expect(marksOf(marks.statements(LSN)).chunks).toEqual([
          `9:${chunkOfInteger(chunking, key)}`,
        ]);
      }),
    );
  });

  test.each([
    ['text', TEXT, fc.string({ unit: 'binary' }).map((key) => key.replaceAll('\0', ''))],
    ['uuid', UUID, fc.uuid()],
  ])('are the chunks of the plan, for keys of %s', (_, typeOid, keys) => {
    const chunking = { strategy: 'hash', column: 'id', width: 1024n } as const;
    fc.assert(
      fc.property(keys, (key) => {
        const batch = new ChangeBatch<FollowedTable>();
        insert(batch, tableOf(typeOid, format, chunking), keyBytes(typeOid, format, key));
        const marks = new DirtyMarks('0badcafe');
        marks.add(batch);
        expect(marksOf(marks.statements(LSN)).chunks).toEqual([`9:${chunkOfText(chunking, key)}`]);
      }),
    );
  });
});

describe('marks', () => {
  const chunking = { strategy: 'range', column: 'id', width: 1024n } as const;
  const table = tableOf(INT8, 'binary', chunking);
  const key = (value: bigint): Buffer => keyBytes(INT8, 'binary', value);
  const batchOf = (...keys: bigint[]): ChangeBatch<FollowedTable> => {
    const batch = new ChangeBatch<FollowedTable>();
    for (const value of keys) insert(batch, table, key(value));
    return batch;
  };

  test('are written once, until a fence', () => {
    const marks = new DirtyMarks('0badcafe');
    marks.add(batchOf(1n, 5000n));
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:0', '9:4']);
    marks.committed();
    marks.add(batchOf(2n, 9000n));
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:8']);
    marks.committed();
    marks.add(batchOf(3n));
    expect(marks.statements(LSN)).toEqual([]);
    marks.forget();
    marks.add(batchOf(3n));
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:0']);
  });

  test('are not taken for written before their transaction has committed', () => {
    const marks = new DirtyMarks('0badcafe');
    marks.add(batchOf(1n));
    marks.add(batchOf(2n));
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:0']);
  });

  test('of a row that moves are both its chunks', () => {
    const batch = new ChangeBatch<FollowedTable>();
    const bytes = updateMessage(9, {
      before: tupleOfBytes([null, key(1n)], 'b'),
      after: tupleOfBytes([null, key(5000n)], 'b'),
    });
    batch.addRow(table, { tag: TAG.update, bytes, body: 1, end: bytes.length });
    const marks = new DirtyMarks('0badcafe');
    marks.add(batch);
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:0', '9:4']);
  });

  test('of a truncated table are one for the table', () => {
    const batch = batchOf(1n);
    batch.addTruncate([table]);
    const marks = new DirtyMarks('0badcafe');
    marks.add(batch);
    expect(marksOf(marks.statements(LSN)).tables).toEqual(['9']);
  });

  test('of too many chunks become one for the table, so that memory is bounded', () => {
    const marks = new DirtyMarks('0badcafe');
    for (let i = 0n; i < 60_000n; i += 10_000n) {
      marks.add(batchOf(...Array.from({ length: 10_000 }, (_, j) => (i + BigInt(j)) * 1024n)));
    }
    expect(marksOf(marks.statements(LSN))).toEqual({ chunks: [], tables: ['9'] });
    marks.committed();
    marks.add(batchOf(0n));
    expect(marksOf(marks.statements(LSN)).chunks).toEqual(['9:0']);
  });

  test('whose number is not exact become one for the table', () => {
    const tiny = tableOf(INT8, 'binary', { ...chunking, width: 2n });
    const batch = new ChangeBatch<FollowedTable>();
    insert(batch, tiny, key(2n ** 62n + 2n));
    const marks = new DirtyMarks('0badcafe');
    marks.add(batch);
    expect(marksOf(marks.statements(LSN))).toEqual({ chunks: [], tables: ['9'] });
  });
});
