import { describe, expect, test } from 'vitest';

import {
  beginMessage,
  commitMessage,
  deleteMessage,
  insertMessage,
  logicalMessage,
  relationMessage,
  streamAbortMessage,
  streamCommitMessage,
  streamStartMessage,
  truncateMessage,
  tuple,
  UNCHANGED,
  updateMessage,
} from '#test/pgoutput-encoder.ts';

import {
  columnOffsets,
  commitTimeMs,
  nextColumn,
  readBeginCommitLsn,
  readCommit,
  readIsFirstBlock,
  readLogicalMessage,
  readRelation,
  readRelationOid,
  readRowTuples,
  readStreamAbort,
  readStreamCommit,
  readTruncate,
  readXid,
  skipTuple,
  TAG,
  VALUE,
} from './pgoutput.ts';

/** A message where it lies in practice: between others. */
function placed(message: Buffer): { bytes: Buffer; at: number } {
  const junk = Buffer.from('junk');
  return { bytes: Buffer.concat([junk, message, junk]), at: junk.length };
}

describe('transactions', () => {
  test('begin and commit carry the commit record and its end', () => {
    const begin = placed(beginMessage(0x1_0000_0010n));
    expect(begin.bytes[begin.at]).toBe(TAG.begin);
    expect(readBeginCommitLsn(begin.bytes, begin.at)).toBe(0x1_0000_0010n);
    const commit = placed(commitMessage(0x10n, 0x40n, 5_000_000n));
    expect(readCommit(commit.bytes, commit.at)).toEqual({
      commitLsn: 0x10n,
      endLsn: 0x40n,
      commitTime: 5_000_000n,
    });
    // 2000-01-01 00:00:05 UTC.
    expect(commitTimeMs(5_000_000n)).toBe(946_684_805_000);
  });

  test('streamed blocks, commits and aborts carry their xids', () => {
    const first = placed(streamStartMessage(4_000_000_000, true));
    expect(readXid(first.bytes, first.at)).toBe(4_000_000_000);
    expect(readIsFirstBlock(first.bytes, first.at)).toBe(true);
    const later = placed(streamStartMessage(7, false));
    expect(readIsFirstBlock(later.bytes, later.at)).toBe(false);
    const commit = placed(streamCommitMessage(7, 0x10n, 0x40n));
    expect(readStreamCommit(commit.bytes, commit.at)).toMatchObject({ xid: 7, endLsn: 0x40n });
    const abort = placed(streamAbortMessage(7, 9));
    expect(readStreamAbort(abort.bytes, abort.at)).toEqual({ xid: 7, subXid: 9 });
  });
});

describe('relations', () => {
  const columns = [
    { name: 'id', typeOid: 20, isKey: true },
    { name: 'größe "x"', typeOid: 1700, typeModifier: 655_366 },
  ];

  test.each([undefined, 77])('a relation is read, with xid %s', (xid) => {
    const { bytes, at } = placed(
      relationMessage({ oid: 99, schema: 'Sales', name: 'order line', columns }, xid),
    );
    expect(readRelation(bytes, xid === undefined ? at + 1 : at + 5)).toEqual({
      oid: 99,
      schema: 'Sales',
      name: 'order line',
      columns: [
        { name: 'id', typeOid: 20, typeModifier: -1, isKey: true },
        { name: 'größe "x"', typeOid: 1700, typeModifier: 655_366, isKey: false },
      ],
    });
  });

  test('a name without its end is refused', () => {
    const whole = relationMessage({ oid: 99, schema: 'public', name: 'a', columns });
    expect(() => readRelation(whole.subarray(0, 9), 1)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
    );
  });
});

describe('rows', () => {
  const key = tuple(['1', null, null]);
  const row = tuple(['2', UNCHANGED, '']);

  test('the tuples of each kind of change are found', () => {
    const insert = insertMessage(5, row);
    expect(readRelationOid(insert, 1)).toBe(5);
    expect(readRowTuples(TAG.insert, insert, 1)).toEqual({ before: -1, after: 6 });
    const plain = updateMessage(5, { after: row });
    expect(readRowTuples(TAG.update, plain, 1)).toEqual({ before: -1, after: 6 });
    for (const kind of ['K', 'O'] as const) {
      const update = updateMessage(5, { kind, before: key, after: row });
      const tuples = readRowTuples(TAG.update, update, 1);
      expect(update.subarray(tuples.before, tuples.before + key.length)).toEqual(key);
      expect(update.subarray(tuples.after)).toEqual(row);
      const deletion = deleteMessage(5, kind, key);
      expect(readRowTuples(TAG.delete, deletion, 1)).toEqual({ before: 6, after: -1 });
    }
    const streamed = insertMessage(5, row, 77);
    expect(readRowTuples(TAG.insert, streamed, 5)).toEqual({ before: -1, after: 10 });
  });

  test('columns are walked by kind and length', () => {
    const { bytes, at } = placed(tuple(['abc', null, UNCHANGED, '']));
    const offsets = columnOffsets(bytes, at, [0, 1, 2, 3]);
    expect(offsets.map((offset) => bytes[offset])).toEqual([
      VALUE.text,
      VALUE.null,
      VALUE.unchanged,
      VALUE.text,
    ]);
    expect(columnOffsets(bytes, at, [2])).toEqual([offsets[2]]);
    expect(nextColumn(bytes, offsets[3]!)).toBe(skipTuple(bytes, at));
    expect(bytes.toString('latin1', skipTuple(bytes, at))).toBe('junk');
  });

  test.each([
    ['an insert with an old row', TAG.insert, deleteMessage(5, 'K', key)],
    ['a delete with a new row', TAG.delete, insertMessage(5, row)],
    ['an update with only an old row', TAG.update, deleteMessage(5, 'O', key)],
    ['a column of an unknown kind', TAG.update, updateMessage(5, { before: bad(), after: row })],
  ])('%s is refused', (_, tag, message) => {
    expect(() => readRowTuples(tag, Buffer.concat([message, Buffer.alloc(9)]), 1)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
    );
  });
});

test('TRUNCATE names its relations', () => {
  const message = truncateMessage([3, 4_000_000_000], 2);
  expect(readTruncate(message, 1)).toEqual({
    relationOids: [3, 4_000_000_000],
    restartsIdentity: true,
  });
  expect(readTruncate(truncateMessage([3], 0, 77), 5).restartsIdentity).toBe(false);
});

test('a logical message has a prefix and content', () => {
  const logical = { isTransactional: true, prefix: 'understudy', content: 'größe' };
  const { bytes, at } = placed(logicalMessage(logical));
  expect(readLogicalMessage(bytes, at + 1)).toEqual({ prefix: 'understudy', content: 'größe' });
});

function bad(): Buffer {
  return Buffer.from([0, 1, 0x78]);
}
