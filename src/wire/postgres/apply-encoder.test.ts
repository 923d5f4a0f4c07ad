import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { type TestValue, tuple, UNCHANGED } from '#test/pgoutput-encoder.ts';

import { ArrayParameters, writeCopyRows, writeRowParameters } from './apply-encoder.ts';
import { MessageWriter } from './message-writer.ts';
import type { NetEntry } from './net-entry.ts';

const INT8_OID = 20;
const COLUMNS = 4;

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }).map((value) => value.replaceAll('\0', '')),
  fc.constantFrom('', '\\N', '\\.', 'a\tb', 'a\nb', 'a\r\nb', 'a\\b', '\u{1f600}', 'x'.repeat(100)),
);
const rows = fc.array(
  fc.array(fc.option(text, { nil: null }), { minLength: COLUMNS, maxLength: COLUMNS }),
  { minLength: 1, maxLength: 20 },
);
const indexes = fc.subarray([0, 1, 2, 3], { minLength: 1 });
const format = fc.constantFrom('text', 'binary');

function entriesOf(values: readonly (readonly TestValue[])[], kind: 't' | 'b'): NetEntry[] {
  return values.map((row) => {
    // A tuple lies somewhere in a larger buffer.
    const bytes = Buffer.concat([Buffer.from('xyz'), tuple(row, kind), Buffer.from('xyz')]);
    return { kind: 'insert', bytes, at: 3, unchanged: '' };
  });
}

const kindOf = (name: 'text' | 'binary'): 't' | 'b' => (name === 'text' ? 't' : 'b');

describe('array parameters', () => {
  test('hold the columns that were asked for, one array each', () => {
    const arrays = new ArrayParameters();
    fc.assert(
      fc.property(rows, indexes, format, (values, columns, name) => {
        arrays.fill(entriesOf(values, kindOf(name)), columns);
        columns.forEach((column, i) => {
          const writer = new MessageWriter(16);
          arrays.write(writer, i, { oid: INT8_OID, format: name });
          const expected = values.map((row) => row[column] ?? null);
          expect(decodeArray(writer.take())).toEqual(expected);
        });
      }),
    );
  });

  test('a value that is not in the format of the stream is refused', () => {
    const arrays = new ArrayParameters();
    for (const [kind, name] of [
      ['t', 'binary'],
      ['b', 'text'],
    ] as const) {
      arrays.fill(entriesOf([['1', '2', '3', '4']], kind), [1]);
      expect(() => {
        arrays.write(new MessageWriter(), 0, { oid: INT8_OID, format: name });
      }).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }));
    }
    arrays.fill(entriesOf([['1', UNCHANGED, '3', '4']], 't'), [1]);
    expect(() => {
      arrays.write(new MessageWriter(), 0, { oid: INT8_OID, format: 'text' });
    }).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }));
  });
});

test('the columns of one row become parameters', () => {
  fc.assert(
    fc.property(rows, indexes, format, ([row = []], columns, name) => {
      const writer = new MessageWriter(16);
      const [entry] = entriesOf([row], kindOf(name));
      writeRowParameters(writer, entry!, columns, name);
      const reader = new Reader(writer.take());
      expect(columns.map(() => reader.value())).toEqual(columns.map((column) => row[column]));
      expect(reader.isAtEnd).toBe(true);
    }),
  );
});

describe('COPY rows', () => {
  test('in text are what COPY reads back', () => {
    fc.assert(
      fc.property(rows, (values) => {
        const writer = new MessageWriter(16);
        writeCopyRows(writer, entriesOf(values, 't'), 'text');
        expect(readCopyText(copyData(writer.take()).toString('utf8'))).toEqual(values);
      }),
    );
  });

  test('in binary are what COPY reads back', () => {
    fc.assert(
      fc.property(rows, (values) => {
        const writer = new MessageWriter(16);
        writeCopyRows(writer, entriesOf(values, 'b'), 'binary');
        expect(readCopyBinary(copyData(writer.take()))).toEqual(values);
      }),
    );
  });

  test('of many bytes are cut into frames', () => {
    const values = Array.from({ length: 50 }, (_, i) => [`${i}`, 'x'.repeat(10_000), null, '']);
    const writer = new MessageWriter(16);
    writeCopyRows(writer, entriesOf(values, 't'), 'text');
    const bytes = writer.take();
    expect(bytes.readInt32BE(1)).toBeLessThan(100_000);
    expect(readCopyText(copyData(bytes).toString('utf8'))).toEqual(values);
  });
});

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  int16(): number {
    this.#at += 2;
    return this.#bytes.readInt16BE(this.#at - 2);
  }

  int32(): number {
    this.#at += 4;
    return this.#bytes.readInt32BE(this.#at - 4);
  }

  skip(bytes: number): void {
    this.#at += bytes;
  }

  value(): string | null {
    const length = this.int32();
    if (length < 0) return null;
    this.#at += length;
    return this.#bytes.toString('utf8', this.#at - length, this.#at);
  }
}

/** As array_recv reads it. */
function decodeArray(bytes: Buffer): readonly (string | null)[] {
  const reader = new Reader(bytes);
  expect(reader.int32()).toBe(bytes.length - 4);
  expect(reader.int32()).toBe(1);
  const hasNull = reader.int32();
  expect(reader.int32()).toBe(INT8_OID);
  const count = reader.int32();
  expect(reader.int32()).toBe(1);
  const values = Array.from({ length: count }, () => reader.value());
  expect(reader.isAtEnd).toBe(true);
  expect(hasNull).toBe(values.includes(null) ? 1 : 0);
  return values;
}

/** What is in the CopyData frames. */
function copyData(bytes: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    expect(bytes.toString('latin1', at, at + 1)).toBe('d');
    const end = at + 1 + bytes.readInt32BE(at + 1);
    parts.push(bytes.subarray(at + 5, end));
    at = end;
  }
  return Buffer.concat(parts);
}

/** https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2 */
function readCopyText(copied: string): readonly (readonly (string | null)[])[] {
  const escapes: Record<string, string> = { t: '\t', n: '\n', r: '\r', '\\': '\\' };
  expect(copied.endsWith('\n')).toBe(true);
  return copied
    .slice(0, -1)
    .split('\n')
    .map((line) =>
      line
        .split('\t')
        .map((field) =>
          field === '\\N' ? null : field.replaceAll(/\\(.)/gu, (_, char) => escapes[char]!),
        ),
    );
}

/** https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT */
function readCopyBinary(bytes: Buffer): readonly (readonly (string | null)[])[] {
  expect(bytes.toString('latin1', 0, 11)).toBe('PGCOPY\n\xff\r\n\0');
  const reader = new Reader(bytes);
  reader.skip(19);
  const values: (readonly (string | null)[])[] = [];
  for (let columns = reader.int16(); columns >= 0; columns = reader.int16()) {
    values.push(Array.from({ length: columns }, () => reader.value()));
  }
  expect(reader.isAtEnd).toBe(true);
  return values;
}
