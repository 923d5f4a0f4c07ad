import { OperatorError } from '#src/lib/errors.ts';

import type { MessageWriter } from './message-writer.ts';
import type { NetEntry } from './net-entry.ts';
import { nextColumn, VALUE } from './pgoutput.ts';

/**
 * From pgoutput tuples to what the target takes, without looking at a value: a pgoutput column is an
 * Int32 length and bytes, and so are an element of a binary array, a field of binary COPY and a Bind
 * parameter. In a text stream the elements are those of a `text[]`, which needs no escaping either.
 */

export type ValueFormat = 'text' | 'binary';

const COPY_DATA = 0x64; // 'd'
/** Rows of one CopyData frame; the server takes any size, this one keeps its buffer small. */
const COPY_FRAME_BYTES = 64 * 1024;
/** https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT */
const COPY_SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');

/** The value at `at` must be in the format that the stream was asked for. */
function requireKind(bytes: Buffer, at: number, format: ValueFormat): void {
  const wanted = format === 'binary' ? VALUE.binary : VALUE.text;
  if (bytes[at] !== wanted) {
    throw new OperatorError(
      'PROTOCOL_VIOLATION',
      `a ${format} stream sent a value of another kind`,
      {
        detail: { kind: bytes[at] ?? -1 },
      },
    );
  }
}

const OFFSETS_KEPT = 1024 * 1024;

/** Columns of many tuples, one array parameter each; the memory is used again from batch to batch. */
export class ArrayParameters {
  /** Where the columns of each entry begin, entry by entry. */
  #offsets = new Int32Array(4096);
  #entries: readonly NetEntry[] = [];
  #columns = 0;

  /** Take the columns `indexes` (ascending) of each entry; entry i becomes element i of every array. */
  fill(entries: readonly NetEntry[], indexes: readonly number[]): void {
    const wanted = entries.length * indexes.length;
    if (wanted > this.#offsets.length || this.#offsets.length > OFFSETS_KEPT) {
      this.#offsets = new Int32Array(Math.max(wanted, 4096));
    }
    this.#entries = entries;
    this.#columns = indexes.length;
    let to = 0;
    for (const { bytes, at } of entries) {
      let next = at + 2;
      let column = 0;
      for (const index of indexes) {
        for (; column < index; column++) next = nextColumn(bytes, next);
        this.#offsets[to++] = next;
      }
    }
  }

  /**
   * Append the array of column number `i` of those that `fill` took as a Bind parameter: length, header,
   * elements. https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/utils/adt/arrayfuncs.c
   */
  write(to: MessageWriter, i: number, element: { oid: number; format: ValueFormat }): void {
    const lengthAt = to.reserveInt32();
    to.int32(1); // dimensions
    const hasNullAt = to.reserveInt32();
    to.int32(element.oid);
    to.int32(this.#entries.length);
    to.int32(1); // lower bound
    let hasNull = 0;
    let from = i;
    for (const { bytes } of this.#entries) {
      const at = this.#offsets[from] ?? 0;
      from += this.#columns;
      if (bytes[at] === VALUE.null) {
        to.int32(-1);
        hasNull = 1;
      } else {
        requireKind(bytes, at, element.format);
        to.bytes(bytes, at + 1, nextColumn(bytes, at));
      }
    }
    to.patchInt32(hasNullAt, hasNull);
    to.patchInt32(lengthAt, to.length - lengthAt - 4);
  }

  /** Let go of the entries, which keep a batch alive. */
  clear(): void {
    this.#entries = [];
  }
}

/** Append the columns `indexes` (ascending) of a tuple as Bind parameters. */
export function writeRowParameters(
  to: MessageWriter,
  tuple: { readonly bytes: Buffer; readonly at: number },
  indexes: readonly number[],
  format: ValueFormat,
): void {
  const { bytes, at } = tuple;
  let next = at + 2;
  let column = 0;
  for (const index of indexes) {
    for (; column < index; column++) next = nextColumn(bytes, next);
    if (bytes[next] === VALUE.null) {
      to.int32(-1);
    } else {
      requireKind(bytes, next, format);
      to.bytes(bytes, next + 1, nextColumn(bytes, next));
    }
  }
}

/** Append whole new rows as CopyData frames, in COPY's binary or text format. */
export function writeCopyRows(
  to: MessageWriter,
  entries: readonly NetEntry[],
  format: ValueFormat,
): void {
  let frameAt = beginFrame(to);
  if (format === 'binary') to.bytes(COPY_SIGNATURE);
  for (const { bytes, at } of entries) {
    if (to.length - frameAt > COPY_FRAME_BYTES) {
      endFrame(to, frameAt);
      frameAt = beginFrame(to);
    }
    if (format === 'binary') writeBinaryRow(to, bytes, at);
    else writeTextRow(to, bytes, at);
  }
  if (format === 'binary') to.int16(-1);
  endFrame(to, frameAt);
}

function beginFrame(to: MessageWriter): number {
  to.int8(COPY_DATA);
  return to.reserveInt32();
}

function endFrame(to: MessageWriter, frameAt: number): void {
  to.patchInt32(frameAt, to.length - frameAt);
}

function writeBinaryRow(to: MessageWriter, bytes: Buffer, at: number): void {
  const columns = bytes.readUInt16BE(at);
  to.int16(columns);
  let next = at + 2;
  for (let i = 0; i < columns; i++) {
    const end = nextColumn(bytes, next);
    if (bytes[next] === VALUE.null) {
      to.int32(-1);
    } else {
      requireKind(bytes, next, 'binary');
      to.bytes(bytes, next + 1, end);
    }
    next = end;
  }
}

const TAB = 0x09;
const NEWLINE = 0x0a;
const RETURN = 0x0d;
const BACKSLASH = 0x5c;
const ESCAPES: Readonly<Record<number, number>> = {
  [TAB]: 0x74, // t
  [NEWLINE]: 0x6e, // n
  [RETURN]: 0x72, // r
  [BACKSLASH]: BACKSLASH,
};

/** https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2 */
function writeTextRow(to: MessageWriter, bytes: Buffer, at: number): void {
  const columns = bytes.readUInt16BE(at);
  let next = at + 2;
  for (let i = 0; i < columns; i++) {
    if (i > 0) to.int8(TAB);
    const end = nextColumn(bytes, next);
    if (bytes[next] === VALUE.null) {
      to.int8(BACKSLASH).int8(0x4e); // \N
    } else {
      requireKind(bytes, next, 'text');
      writeEscaped(to, bytes, next + 5, end);
    }
    next = end;
  }
  to.int8(NEWLINE);
}

function writeEscaped(to: MessageWriter, bytes: Buffer, start: number, end: number): void {
  let plain = start;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] ?? 0;
    if (byte > BACKSLASH || (byte > RETURN && byte < BACKSLASH)) continue;
    const escape = ESCAPES[byte];
    if (escape === undefined) continue;
    to.bytes(bytes, plain, at);
    to.int8(BACKSLASH).int8(escape);
    plain = at + 1;
  }
  to.bytes(bytes, plain, end);
}
