import * as fc from 'fast-check';

import { TAG } from '#src/wire/postgres/pgoutput.ts';

import {
  deleteMessage,
  insertMessage,
  type TestValue,
  truncateMessage,
  tuple,
  UNCHANGED,
  updateMessage,
} from './pgoutput-encoder.ts';
import { type Row, TableModel } from './table-model.ts';

/**
 * Random histories over few keys, as a source would send them: every operation, changes of keys, unique
 * values that wander between rows, long values that are not touched, TRUNCATE of several tables. What
 * the source would refuse is left out, so each history is a valid one.
 */
export type HistoryTable = {
  readonly oid: number;
  /** None: without a key, under REPLICA IDENTITY FULL. */
  readonly keyIndexes: readonly number[];
  /** Columns of which each has a unique index of its own; NULL as often as one likes. */
  readonly uniqueIndexes: readonly number[];
  /** Kept out of line: an UPDATE that does not touch it does not carry it. */
  readonly longIndex: number;
  readonly columns: number;
};

export type HistoryMessage = { readonly tag: number; readonly bytes: Buffer };

/** What the generator draws; what it means depends on the rows that are there. */
const anyOperation = fc.record({
  table: fc.nat(11),
  kind: fc.constantFrom(
    ...(['insert', 'insert', 'insert', 'update', 'update', 'move', 'delete'] as const),
    ...(['reinsert', 'swap', 'takeOver', 'truncate'] as const),
  ),
  row: fc.nat(20),
  other: fc.nat(20),
  key: fc.nat(6),
  value: fc.constantFrom<string | null>('', 'a', 'zqrow\\N\t', null),
  unique: fc.option(fc.nat(9), { nil: null }),
  isLongUnchanged: fc.boolean(),
});
export type Operation = typeof anyOperation extends fc.Arbitrary<infer T> ? T : never;

export const anyHistory = fc.array(anyOperation, { minLength: 1, maxLength: 60 });

export class History {
  /** What the source has, by table. */
  readonly models: readonly TableModel[];
  readonly #tables: readonly HistoryTable[];
  readonly #kind: 't' | 'b';
  readonly #emit: (message: HistoryMessage) => void;

  constructor(
    tables: readonly HistoryTable[],
    kind: 't' | 'b',
    emit: (message: HistoryMessage) => void,
  ) {
    this.#tables = tables;
    this.#kind = kind;
    this.#emit = emit;
    this.models = tables.map((table) => new TableModel(table.keyIndexes));
  }

  write(operation: Operation): void {
    const table = this.#tables[operation.table % this.#tables.length];
    if (table === undefined) return;
    const model = this.#modelOf(table);
    const rows = model.rows();
    const old = rows[operation.row % Math.max(rows.length, 1)];
    const fresh = newRow(table, operation);
    if (operation.kind === 'truncate') {
      this.#truncate(operation.row % 3 === 0 ? this.#tables : [table]);
    } else if (operation.kind === 'insert') {
      this.#insert(table, fresh);
    } else if (old !== undefined) {
      const other = rows[operation.other % rows.length] ?? old;
      this.#change(table, operation, { old, fresh, other });
    }
  }

  #change(
    table: HistoryTable,
    operation: Operation,
    { old, fresh, other }: { readonly old: Row; readonly fresh: Row; readonly other: Row },
  ): void {
    const { kind } = operation;
    if (kind === 'delete') {
      this.#delete(table, old);
    } else if (kind === 'reinsert') {
      this.#delete(table, old);
      this.#insert(table, withColumns(fresh, old, table.keyIndexes));
    } else if (kind === 'takeOver') {
      // Another row gets what this one gave up.
      this.#delete(table, old);
      this.#insert(table, withColumns(fresh, old, table.uniqueIndexes));
    } else if (kind === 'swap') {
      const model = this.#modelOf(table);
      if (model.keyOf(other) === model.keyOf(old)) return;
      const free = withColumns(fresh, old, allBut(table, table.uniqueIndexes));
      if (!this.#update(table, old, free, operation)) return;
      if (!this.#update(table, other, withColumns(other, old, table.uniqueIndexes), operation))
        return;
      this.#update(table, free, withColumns(free, other, table.uniqueIndexes), operation);
    } else {
      const row = kind === 'move' ? fresh : withColumns(fresh, old, table.keyIndexes);
      this.#update(table, old, row, operation);
    }
  }

  #insert(table: HistoryTable, row: Row): void {
    if (this.#isTaken(table, row)) return;
    this.#modelOf(table).insert(row);
    this.#emit({ tag: TAG.insert, bytes: insertMessage(table.oid, tuple(row, this.#kind)) });
  }

  #delete(table: HistoryTable, row: Row): void {
    this.#modelOf(table).delete(row);
    const before = tuple(oldOf(table, row), this.#kind);
    this.#emit({ tag: TAG.delete, bytes: deleteMessage(table.oid, oldKindOf(table), before) });
  }

  /** Whether the source would have let it happen. */
  #update(table: HistoryTable, old: Row, row: Row, { isLongUnchanged }: Operation): boolean {
    const whole = isLongUnchanged ? withColumns(row, old, [table.longIndex]) : row;
    if (this.#isTaken(table, whole, old)) return false;
    const model = this.#modelOf(table);
    const after = whole.map((value, i): TestValue => {
      return isLongUnchanged && i === table.longIndex ? UNCHANGED : value;
    });
    const isMoved = model.keyOf(old) !== model.keyOf(whole);
    model.update(old, whole);
    const before =
      isMoved || model.isKeyless
        ? { kind: oldKindOf(table), before: tuple(oldOf(table, old), this.#kind) }
        : {};
    const bytes = updateMessage(table.oid, { ...before, after: tuple(after, this.#kind) });
    this.#emit({ tag: TAG.update, bytes });
    return true;
  }

  #truncate(tables: readonly HistoryTable[]): void {
    for (const table of tables) this.#modelOf(table).clear();
    this.#emit({ tag: TAG.truncate, bytes: truncateMessage(tables.map(({ oid }) => oid)) });
  }

  /** Whether another row than `old` has the key or a unique value. */
  #isTaken(table: HistoryTable, row: Row, old?: Row): boolean {
    const model = this.#modelOf(table);
    const mine = old === undefined ? undefined : model.keyOf(old);
    const others = model.rows().filter((other) => model.keyOf(other) !== mine);
    return others.some(
      (other) =>
        (!model.isKeyless && model.keyOf(other) === model.keyOf(row)) ||
        table.uniqueIndexes.some((i) => row[i] !== null && row[i] === other[i]),
    );
  }

  #modelOf(table: HistoryTable): TableModel {
    const model = this.models[this.#tables.indexOf(table)];
    if (model === undefined) throw new Error('a table of another history');
    return model;
  }
}

function newRow(table: HistoryTable, { key, value, unique }: Operation): Row {
  return Array.from({ length: table.columns }, (_, i) => {
    // ('1', '12') and ('11', '2') must not be taken for the same key.
    if (table.keyIndexes.includes(i)) return '1'.repeat(1 + ((key + i) % 3)) + (key % 2);
    if (table.uniqueIndexes.includes(i)) return unique === null ? null : `u${unique}`;
    return value;
  });
}

function withColumns(row: Row, from: Row, indexes: readonly number[]): Row {
  return row.map((value, i) => (indexes.includes(i) ? (from[i] ?? null) : value));
}

function allBut(table: HistoryTable, indexes: readonly number[]): readonly number[] {
  return Array.from({ length: table.columns }, (_, i) => i).filter((i) => !indexes.includes(i));
}

/** What the source sends of an old row: all of it, or its key. */
function oldKindOf({ keyIndexes }: HistoryTable): 'O' | 'K' {
  return keyIndexes.length === 0 ? 'O' : 'K';
}

function oldOf(table: HistoryTable, row: Row): Row {
  if (table.keyIndexes.length === 0) return row;
  return row.map((value, i) => (table.keyIndexes.includes(i) ? value : null));
}
