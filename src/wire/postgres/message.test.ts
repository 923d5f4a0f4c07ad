import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';

import {
  type Body,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeCopyResponse,
  decodeDataRow,
  decodeReadyForQuery,
  decodeRowDescription,
  decodeServerMessage,
  rowsOfCommandTag,
} from './backend.ts';
import { FrameWalker } from './frame.ts';
import {
  beginBind,
  encodeStandbyStatus,
  endBind,
  queryMessage,
  saslInitialResponse,
  startupMessage,
  writeBindText,
  writeClose,
  writeCopyDataHeader,
  writeDescribe,
  writeExecute,
  writeParse,
  writeSync,
} from './frontend.ts';
import { MessageWriter } from './message-writer.ts';
import { decodeKeepalive, decodeXLogDataHeader } from './replication-message.ts';

const REFUSAL = expect.objectContaining({ code: 'PROTOCOL_VIOLATION' });

function body(write: (writer: MessageWriter) => void): Body {
  const writer = new MessageWriter(1);
  write(writer);
  return { buffer: writer.view(), start: 0, end: writer.length };
}

function tags(bytes: Buffer): string {
  const walker = new FrameWalker();
  walker.feed(bytes);
  let seen = '';
  while (walker.next()) seen += String.fromCharCode(walker.tag);
  expect(walker.rest().length).toBe(0);
  return seen;
}

test('a data row comes back as it was written, whatever the values', () => {
  const unit = fc.constantFrom('a', '\0', 'ä', '€', '😀');
  const anyValue = fc.option(fc.string({ unit }), { nil: null });
  fc.assert(
    fc.property(fc.array(anyValue, { maxLength: 40 }), (values) => {
      const row = body((writer) => {
        writer.int16(values.length);
        for (const value of values) writer.value(value);
      });
      expect(decodeDataRow(row)).toEqual(values);
    }),
  );
});

test('integers are big-endian two’s complement, whatever the sign', () => {
  fc.assert(
    fc.property(fc.integer(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (i, l) => {
      const { buffer } = body((writer) =>
        writer
          .int32(i)
          .int64(l)
          .int16(i % 32_768),
      );
      expect(buffer.readInt32BE(0)).toBe(i);
      expect(buffer.readBigInt64BE(4)).toBe(l);
      expect(buffer.readInt16BE(12)).toBe((i % 32_768) + 0);
    }),
  );
});

test('a batch of messages is a sequence of frames, and taking it leaves the writer empty', () => {
  const writer = new MessageWriter(8);
  writeParse(writer, 's', 'SELECT $1', [25]);
  beginBind(writer, { portal: '', statement: 's', formats: [1], parameters: 1 });
  writer.int32(3).bytes(Buffer.from('abc'));
  endBind(writer);
  writeDescribe(writer, 'portal', '');
  writeExecute(writer);
  writeBindText(writer, 's', ['x'.repeat(100), null]);
  writeClose(writer, 'statement', 's');
  writeCopyDataHeader(writer, 2);
  writer.bytes(Buffer.from('ab'));
  writeSync(writer);
  const taken = writer.take();
  writer.bytes(Buffer.alloc(64, 1));
  expect(tags(taken)).toBe('PBDEBCdS');
  expect(writer.length).toBe(64);
});

test('startup, query and SASL messages have the form of the manual', () => {
  expect(startupMessage({ user: 'u' }).toString('latin1')).toBe('\0\0\0\x10\0\x03\0\0user\0u\0\0');
  expect(queryMessage('é').toString('latin1')).toBe('Q\0\0\0\x07Ã©\0');
  expect(saslInitialResponse('M', 'n,,').toString('latin1')).toBe('p\0\0\0\x0dM\0\0\0\0\x03n,,');
});

test('no statement can smuggle in a second message behind a zero byte', () => {
  expect(() => queryMessage('SELECT 1\0')).toThrow('zero byte');
});

test('a standby status carries three positions and microseconds since 2000', () => {
  const status = encodeStandbyStatus({
    written: lsn(3n),
    flushed: lsn(2n),
    applied: lsn(0xffff_ffff_ffff_ffffn),
    clockMs: 946_684_800_001,
    replyRequested: true,
  });
  expect(status.toString('hex')).toBe(
    [
      '64',
      '00000026',
      '72',
      '0000000000000003',
      '0000000000000002',
      'ffffffffffffffff',
      '00000000000003e8',
      '01',
    ].join(''),
  );
});

test('a server error keeps what names things, never DETAIL or CONTEXT (trap 21)', () => {
  const message = decodeServerMessage(
    body((writer) => {
      const fields = { S: 'FEHLER', V: 'ERROR', C: '23505', M: 'duplicate', D: 'Key (x)=(secret)' };
      for (const [key, value] of Object.entries({
        ...fields,
        W: 'secret',
        t: 'items',
        s: 'public',
      })) {
        writer.int8(key.charCodeAt(0)).cstring(value);
      }
      writer.int8(0);
    }),
  );
  expect(message).toMatchObject({
    severity: 'ERROR',
    code: '23505',
    schema: 'public',
    table: 'items',
  });
  expect(JSON.stringify(message)).not.toContain('secret');
});

test('authentication requests are told apart', () => {
  const sasl = body((writer) =>
    writer.int32(10).cstring('SCRAM-SHA-256-PLUS').cstring('SCRAM-SHA-256').int8(0),
  );
  expect(decodeAuthentication(sasl)).toEqual({
    kind: 'sasl',
    mechanisms: ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256'],
  });
  expect(decodeAuthentication(body((writer) => writer.int32(0)))).toEqual({ kind: 'ok' });
  expect(decodeAuthentication(body((writer) => writer.int32(7)))).toMatchObject({ method: 7 });
});

test('names of columns, copy formats, keys and counts are read', () => {
  const description = body((writer) =>
    writer.int16(2).cstring('a').bytes(Buffer.alloc(18)).cstring('b').bytes(Buffer.alloc(18)),
  );
  expect(decodeRowDescription(description)).toEqual(['a', 'b']);
  const copy = body((writer) => writer.int8(1).int16(2).int16(1).int16(1));
  expect(decodeCopyResponse(copy)).toEqual({ isBinary: true, columns: 2 });
  expect(decodeBackendKeyData(body((writer) => writer.int32(7).int32(1)))).toEqual({
    processId: 7,
    secretKey: Buffer.from([0, 0, 0, 1]),
  });
  expect(['COPY 12', 'INSERT 0 3', 'BEGIN'].map(rowsOfCommandTag)).toEqual([12, 3, 0]);
});

test('replication headers give positions and Unix milliseconds', () => {
  const data = body((writer) => writer.int8(0x77).int64(5n).int64(9n).int64(1500n).int8(1));
  expect(decodeXLogDataHeader(data)).toEqual({
    startLsn: 5n,
    serverEndLsn: 9n,
    serverClockMs: 946_684_800_001,
  });
  const keepalive = body((writer) => writer.int8(0x6b).int64(9n).int64(0n).int8(1));
  expect(decodeKeepalive(keepalive)).toMatchObject({ serverEndLsn: 9n, replyRequested: true });
});

test('a body that is shorter than it claims is refused, never read past its end', () => {
  const row = Buffer.from([0, 1, 0, 0, 0, 9, 65, 66]);
  expect(() => decodeDataRow({ buffer: row, start: 0, end: row.length })).toThrow(REFUSAL);
  const cut = Buffer.from('a\0b');
  expect(() => decodeServerMessage({ buffer: cut, start: 0, end: 1 })).toThrow(REFUSAL);
  expect(() => decodeReadyForQuery({ buffer: Buffer.from('X'), start: 0, end: 1 })).toThrow(
    REFUSAL,
  );
  expect(() => decodeXLogDataHeader({ buffer: row, start: 0, end: 8 })).toThrow(REFUSAL);
  expect(() => decodeKeepalive({ buffer: row, start: 0, end: 8 })).toThrow(REFUSAL);
});
