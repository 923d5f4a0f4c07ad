import { nextColumn, VALUE } from './pgoutput.ts';

/** A tuple of the stream, where it lies. */
export type Tuple = { readonly bytes: Buffer; readonly at: number };

/** The later tuple, with its unchanged values (of `only` these columns) taken from the earlier one. */
export function mergeTuples(later: Tuple, earlier: Tuple, only?: readonly number[]): Buffer {
  const columns = later.bytes.readUInt16BE(later.at);
  const parts = [later.bytes.subarray(later.at, later.at + 2)];
  let next = later.at + 2;
  let old = earlier.at + 2;
  for (let i = 0; i < columns; i++) {
    const nextEnd = nextColumn(later.bytes, next);
    const oldEnd = nextColumn(earlier.bytes, old);
    parts.push(
      later.bytes[next] === VALUE.unchanged && (only === undefined || only.includes(i))
        ? earlier.bytes.subarray(old, oldEnd)
        : later.bytes.subarray(next, nextEnd),
    );
    next = nextEnd;
    old = oldEnd;
  }
  return Buffer.concat(parts);
}

/** The indexes of unchanged TOAST values in the tuple at `at`, such as `2,5`; usually none. */
export function unchangedColumns(bytes: Buffer, at: number): string {
  const columns = bytes.readUInt16BE(at);
  let found = '';
  let next = at + 2;
  for (let i = 0; i < columns; i++) {
    if (bytes[next] === VALUE.unchanged) found += found === '' ? `${i}` : `,${i}`;
    next = nextColumn(bytes, next);
  }
  return found;
}
