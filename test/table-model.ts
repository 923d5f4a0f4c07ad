import { nextColumn, VALUE } from '#src/wire/postgres/pgoutput.ts';

import { type TestValue, UNCHANGED } from './pgoutput-encoder.ts';

export type Row = readonly TestValue[];

/**
 * A table in memory that takes changes as a server would, and objects to what a server would count as 0 rows.
 * Without a key it is a multiset, and a row is named by all of its values.
 */
export class TableModel {
  readonly #keyIndexes: readonly number[];
  #rows = new Map<string, Row>();

  constructor(keyIndexes: readonly number[]) {
    this.#keyIndexes = keyIndexes;
  }

  get isKeyless(): boolean {
    return this.#keyIndexes.length === 0;
  }

  keyOf(row: Row): string {
    if (this.isKeyless) return JSON.stringify(row.map(textOf));
    return JSON.stringify(this.#keyIndexes.map((index) => textOf(row[index])));
  }

  /** Whether another row would be in its way. */
  has(row: Row): boolean {
    return !this.isKeyless && this.#rows.has(this.keyOf(row));
  }

  rows(): readonly Row[] {
    return [...this.#rows.values()];
  }

  sorted(): readonly string[] {
    return this.rows()
      .map((row) => JSON.stringify(row))
      .toSorted();
  }

  insert(row: Row): void {
    if (row.includes(UNCHANGED)) throw new Error('a new row with an unknown value');
    if (this.has(row)) throw new Error(`insert of ${this.keyOf(row)}, which is there`);
    this.#put(row);
  }

  /** By the key of `old`; unchanged values of `row` stay. */
  update(old: Row, row: Row): void {
    const current = this.#rows.get(this.#placeOf(old));
    if (current === undefined) throw new Error(`update of ${this.keyOf(old)}, which is not there`);
    const updated = row.map((value, i) => (value === UNCHANGED ? (current[i] ?? null) : value));
    this.#rows.delete(this.#placeOf(old));
    if (this.has(updated)) throw new Error(`update to ${this.keyOf(updated)}, which is there`);
    this.#put(updated);
  }

  delete(row: Row): void {
    if (!this.#rows.delete(this.#placeOf(row))) {
      throw new Error(`delete of ${this.keyOf(row)}, which is not there`);
    }
  }

  #put(row: Row): void {
    let place = this.keyOf(row);
    // Of equal rows each has a place of its own, and the last one leaves first.
    while (this.isKeyless && this.#rows.has(place)) place += '+';
    this.#rows.set(place, row);
  }

  #placeOf(row: Row): string {
    let place = this.keyOf(row);
    while (this.isKeyless && this.#rows.has(`${place}+`)) place += '+';
    return place;
  }

  clear(): void {
    this.#rows.clear();
  }

  copy(): TableModel {
    const copy = new TableModel(this.#keyIndexes);
    copy.become(this);
    return copy;
  }

  become(other: TableModel): void {
    this.#rows = new Map(other.#rows);
  }
}

export function decodeTuple(bytes: Buffer, at: number): Row {
  const row: TestValue[] = [];
  let next = at + 2;
  for (let i = 0; i < bytes.readUInt16BE(at); i++) {
    const end = nextColumn(bytes, next);
    if (bytes[next] === VALUE.null) row.push(null);
    else if (bytes[next] === VALUE.unchanged) row.push(UNCHANGED);
    else row.push(bytes.toString('utf8', next + 5, end));
    next = end;
  }
  return row;
}

function textOf(value: TestValue | undefined): string | null {
  if (typeof value === 'string' || value === null) return value;
  throw new Error('a key with an unknown value');
}
