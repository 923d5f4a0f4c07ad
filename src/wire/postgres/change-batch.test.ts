import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import {
  deleteMessage,
  insertMessage,
  type TestValue,
  tuple,
  UNCHANGED,
  updateMessage,
} from '#test/pgoutput-encoder.ts';
import { decodeTuple, type Row, TableModel } from '#test/table-model.ts';

import { ChangeBatch, type Step } from './change-batch.ts';
import { isKeyless, type KeyedTable } from './net-entry.ts';
import { TAG } from './pgoutput.ts';

const COLUMNS = 5;
/** Kept out of line: an UPDATE that does not touch it does not carry it. */
const LONG = 3;

type Shape = { readonly name: string; readonly keyIndexes: readonly number[] };
const SHAPES: readonly Shape[] = [
  { name: 'a key in front', keyIndexes: [0] },
  { name: 'a key in the middle', keyIndexes: [2] },
  { name: 'a key of several columns', keyIndexes: [1, 4] },
  { name: 'a key that is kept out of line', keyIndexes: [LONG] },
  { name: 'a key of everything', keyIndexes: [0, 1, 2, 3, 4] },
];

const KEYLESS: Shape = { name: 'no key', keyIndexes: [] };

type Table = KeyedTable & { readonly shape: Shape };
const tableOf = (shape: Shape, oid: number): Table => ({
  oid,
  name: { schema: 'public', name: `t${oid}` },
  keyIndexes: shape.keyIndexes,
  shape,
});
const CASES: readonly { readonly name: string; readonly tables: readonly Table[] }[] = [
  ...SHAPES.map((shape) => ({ name: shape.name, tables: [tableOf(shape, 1), tableOf(shape, 2)] })),
  { name: 'no key', tables: [tableOf(KEYLESS, 1), tableOf(KEYLESS, 2)] },
  ...SHAPES.slice(0, 4).map((shape) => ({
    name: `${shape.name}, and another table without any`,
    tables: [tableOf(shape, 1), tableOf(KEYLESS, 2)],
  })),
];

/** What the generator draws; what it means depends on the rows that are there. */
const anyOperation = fc.record({
  table: fc.nat(1),
  kind: fc.constantFrom('insert', 'update', 'update', 'move', 'delete', 'reinsert', 'truncate'),
  row: fc.nat(20),
  key: fc.nat(5),
  value: fc.constantFrom<string | null>('', 'a', 'ab', '\\N\t', null),
  isLongUnchanged: fc.boolean(),
  isFull: fc.boolean(),
});
type Operation = typeof anyOperation extends fc.Arbitrary<infer T> ? T : never;

/** Writes random operations, the valid ones, to a batch and to what the source has. */
class Writer {
  readonly batch = new ChangeBatch<Table>();
  readonly source: readonly TableModel[];
  readonly #tables: readonly Table[];
  readonly #kind: 't' | 'b';

  constructor(tables: readonly Table[], kind: 't' | 'b') {
    this.#tables = tables;
    this.#kind = kind;
    this.source = tables.map((table) => new TableModel(table.keyIndexes));
  }

  write(operation: Operation): void {
    const table = this.#tables[operation.table]!;
    const source = this.source[operation.table]!;
    const rows = source.rows();
    const old = rows[operation.row % Math.max(rows.length, 1)];
    const fresh = this.#newRow(table, operation);
    if (operation.kind === 'truncate') {
      this.batch.addTruncate([table]);
      source.clear();
    } else if (operation.kind === 'insert') {
      if (!source.has(fresh)) this.#insert(table, source, fresh);
    } else if (old === undefined) {
      return;
    } else if (operation.kind === 'delete') {
      this.#delete(table, source, old, operation.isFull);
    } else if (operation.kind === 'reinsert') {
      this.#delete(table, source, old, operation.isFull);
      this.#insert(table, source, withKeyOf(table, fresh, old));
    } else if (operation.kind === 'update') {
      this.#update(table, source, old, withKeyOf(table, fresh, old), operation);
    } else if (!source.has(fresh)) {
      this.#update(table, source, old, fresh, operation);
    }
  }

  #newRow({ keyIndexes }: Table, { key, value }: Operation): Row {
    return Array.from({ length: COLUMNS }, (_, i) =>
      // ('1', '12') and ('11', '2') must not be taken for the same key.
      keyIndexes.includes(i) ? '1'.repeat(1 + ((key + i) % 3)) + (key % 2) : value,
    );
  }

  #insert(table: Table, source: TableModel, row: Row): void {
    source.insert(row);
    this.#add(table, TAG.insert, insertMessage(table.oid, this.#tuple(row)));
  }

  #delete(table: Table, source: TableModel, row: Row, isFull: boolean): void {
    source.delete(row);
    const isWhole = isFull || isKeyless(table);
    const before = this.#tuple(isWhole ? row : keyOnly(table, row));
    this.#add(table, TAG.delete, deleteMessage(table.oid, isWhole ? 'O' : 'K', before));
  }

  #update(table: Table, source: TableModel, old: Row, row: Row, operation: Operation): void {
    const { isLongUnchanged } = operation;
    const isFull = operation.isFull || isKeyless(table);
    const after = row.map((value, i): TestValue => {
      return i === LONG && isLongUnchanged ? UNCHANGED : value;
    });
    const whole = row.map((value, i) => (after[i] === UNCHANGED ? old[i]! : value));
    if (source.keyOf(whole) !== source.keyOf(old) && source.has(whole)) return;
    source.update(old, whole);
    const isMoved = source.keyOf(old) !== source.keyOf(whole);
    // The server sends the old key when it changed, and when a part of it is out of line.
    const needsKey = isMoved || table.keyIndexes.includes(LONG);
    const before = isFull ? old : needsKey ? keyOnly(table, old) : undefined;
    this.#add(
      table,
      TAG.update,
      updateMessage(table.oid, {
        kind: isFull ? 'O' : 'K',
        ...(before === undefined ? {} : { before: this.#tuple(before) }),
        after: this.#tuple(after),
      }),
    );
  }

  #tuple(row: Row): Buffer {
    return tuple(row, this.#kind);
  }

  #add(table: Table, tag: number, bytes: Buffer): void {
    this.batch.addRow(table, { tag, bytes, body: 1, end: bytes.length });
  }
}

function withKeyOf(table: Table, row: Row, old: Row): Row {
  return row.map((value, i) => (table.keyIndexes.includes(i) ? old[i]! : value));
}

function keyOnly(table: Table, row: Row): Row {
  return row.map((value, i) => (table.keyIndexes.includes(i) ? value : null));
}

describe.each(CASES)('with $name', ({ tables }) => {
  // In binary, keys of four bytes (some are) are told apart as integers.
  test.each(['t', 'b'] as const)(
    'steps and history of %s tuples make of the target what the source became',
    (kind) => {
      fc.assert(
        fc.property(
          fc.array(anyOperation, { maxLength: 12 }),
          fc.array(anyOperation, { maxLength: 40 }),
          (before, operations) => {
            const writer = new Writer(tables, kind);
            for (const one of before) writer.write(one);
            const bySteps = writer.source.map((model) => model.copy());
            const byHistory = writer.source.map((model) => model.copy());
            const after = new Writer(tables, kind);
            after.source.forEach((model, i) => model.become(writer.source[i]!));
            for (const one of operations) after.write(one);

            applySteps(after.batch.steps, bySteps);
            applyHistory(after.batch, byHistory);
            // Of tables without a key the history has no rows: what was replayed is the steps.
            applySteps(keylessSteps(after.batch), byHistory);
            const expected = after.source.map((model) => model.sorted());
            expect(bySteps.map((model) => model.sorted())).toEqual(expected);
            expect(byHistory.map((model) => model.sorted())).toEqual(expected);
          },
        ),
        { numRuns: 300 },
      );
    },
  );
});

/** As ApplyPipeline orders them: deletes, updates, inserts. Every row must be there, or not be there. */
function applySteps(steps: readonly Step<Table>[], target: readonly TableModel[]): void {
  for (const step of steps) {
    if (step.kind === 'truncate') {
      for (const { oid } of step.tables) target[oid - 1]!.clear();
    } else if (step.kind === 'exact') {
      for (const change of step.changes) applyChange(change, target);
    } else {
      for (const { table, entries } of [...step.tables.values()].map((changes) => ({
        table: changes.table,
        entries: [...changes.entries()],
      }))) {
        const model = target[table.oid - 1]!;
        for (const kind of ['delete', 'update', 'insert'] as const) {
          for (const entry of entries.filter((one) => one.kind === kind)) {
            const row = decodeTuple(entry.bytes, entry.at);
            const unchanged = row.flatMap((value, i) => (value === UNCHANGED ? [i] : []));
            const isDescribed = kind === 'delete' || entry.unchanged === unchanged.join(',');
            if (!isDescribed) throw new Error(`unchanged are ${unchanged.join(',')}`);
            if (kind === 'delete') model.delete(row);
            else if (kind === 'insert') model.insert(row);
            else model.update(row, row);
          }
        }
      }
    }
  }
}

/** As ApplySession replays them. */
function keylessSteps(batch: ChangeBatch<Table>): readonly Step<Table>[] {
  return batch.steps.flatMap((step): Step<Table>[] => {
    if (step.kind === 'exact') return [];
    if (step.kind === 'truncate') return [{ ...step, tables: step.tables.filter(isKeyless) }];
    const tables = [...step.tables].filter(([, { table }]) => isKeyless(table));
    return [{ ...step, tables: new Map(tables) }];
  });
}

function applyHistory(batch: ChangeBatch<Table>, target: readonly TableModel[]): void {
  for (const change of batch.history) {
    if ('tables' in change) {
      for (const { oid } of change.tables.filter((table) => !isKeyless(table))) {
        target[oid - 1]!.clear();
      }
    } else applyChange(change, target);
  }
}

function applyChange(
  change: { tag: number; table: Table; bytes: Buffer; before: number; after: number },
  target: readonly TableModel[],
): void {
  const { tag, table, bytes, before, after } = change;
  const model = target[table.oid - 1]!;
  if (tag === TAG.insert) model.insert(decodeTuple(bytes, after));
  else if (tag === TAG.delete) model.delete(decodeTuple(bytes, before));
  else {
    const row = decodeTuple(bytes, after);
    model.update(before >= 0 ? decodeTuple(bytes, before) : row, row);
  }
}

describe('a table whose changes contradict each other', () => {
  const table = tableOf(SHAPES[0]!, 7);
  const row = tuple(['1', 'a', 'b', 'c', 'd']);
  const changes = {
    insert: { tag: TAG.insert, bytes: insertMessage(7, row) },
    update: { tag: TAG.update, bytes: updateMessage(7, { after: row }) },
    delete: { tag: TAG.delete, bytes: deleteMessage(7, 'K', row) },
    keyless: {
      tag: TAG.delete,
      bytes: deleteMessage(7, 'K', tuple([null, null, null, null, null])),
    },
  };

  test.each([
    ['insert', 'insert'],
    ['update', 'insert'],
    ['delete', 'update'],
    ['delete', 'delete'],
    ['insert', 'keyless'],
  ] as const)('stops alone: %s, then %s', (first, second) => {
    const batch = new ChangeBatch<Table>();
    const add = ({ tag, bytes }: { tag: number; bytes: Buffer }): void =>
      batch.addRow(table, { tag, bytes, body: 1, end: bytes.length });
    add(changes[first]);
    expect(() => add(changes[second])).toThrow(
      expect.objectContaining({ code: 'TABLE_DIVERGED', detail: { relation: 7 } }),
    );
  });
});

test('copies of a long value by merged updates count as bytes of the batch', () => {
  // An insert of 1 MB and 1,000 updates of another column would copy a gigabyte.
  const table = tableOf(SHAPES[0]!, 1);
  const batch = new ChangeBatch<Table>();
  const long = 'x'.repeat(1_000_000);
  const insert = insertMessage(1, tuple(['1', 'a', 'b', long, 'd']));
  batch.addRow(table, { tag: TAG.insert, bytes: insert, body: 1, end: insert.length });
  const update = updateMessage(1, { after: tuple(['1', 'z', 'b', UNCHANGED, 'd']) });
  for (let i = 0; i < 8; i++) {
    batch.addRow(table, { tag: TAG.update, bytes: update, body: 1, end: update.length });
  }
  expect(batch.bytes).toBeGreaterThan(9_000_000);
});

const KEYLESS_OID = 7;

const countOf = (batch: ChangeBatch<Table>): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const step of batch.steps) {
    if (step.kind !== 'net') continue;
    for (const { kind } of step.tables.get(KEYLESS_OID)?.entries() ?? []) {
      counts[kind] = (counts[kind] ?? 0) + 1;
    }
  }
  return counts;
};

const longTuple = (end: string): Buffer =>
  tuple(['1', null, 'b', 'x'.repeat(1_000_000) + end, 'd']);

describe('a table without a key', () => {
  const table = tableOf(KEYLESS, KEYLESS_OID);
  const row = tuple(['1', null, 'b', 'c', 'd']);
  const add = (batch: ChangeBatch<Table>, tag: number, bytes: Buffer): void =>
    batch.addRow(table, { tag, bytes, body: 1, end: bytes.length });

  test('a thousand equal rows that leave and come are counted', () => {
    const batch = new ChangeBatch<Table>();
    for (let i = 0; i < 1_000; i++) add(batch, TAG.delete, deleteMessage(7, 'O', row));
    for (let i = 0; i < 400; i++) add(batch, TAG.insert, insertMessage(7, row));
    expect(countOf(batch)).toEqual({ delete: 600 });
    for (let i = 0; i < 601; i++) add(batch, TAG.insert, insertMessage(7, row));
    expect(countOf(batch)).toEqual({ insert: 1 });
  });

  test('long rows that differ in a byte are two', () => {
    const batch = new ChangeBatch<Table>();
    add(batch, TAG.delete, deleteMessage(7, 'O', longTuple('a')));
    add(batch, TAG.insert, insertMessage(7, longTuple('b')));
    expect(countOf(batch)).toEqual({ delete: 1, insert: 1 });
    add(batch, TAG.insert, insertMessage(7, longTuple('a')));
    add(batch, TAG.delete, deleteMessage(7, 'O', longTuple('b')));
    expect(countOf(batch)).toEqual({});
  });

  test.each([
    ['an old key alone', TAG.delete, deleteMessage(7, 'K', row)],
    ['no old row', TAG.update, updateMessage(7, { after: row })],
    [
      'an old row with a gap',
      TAG.delete,
      deleteMessage(7, 'O', tuple([UNCHANGED, 'a', 'b', 'c', 'd'])),
    ],
    ['a new row with a gap', TAG.insert, insertMessage(7, tuple(['1', 'a', 'b', UNCHANGED, 'd']))],
  ])('stops when a change has %s', (_, tag, bytes) => {
    expect(() => add(new ChangeBatch(), tag, bytes)).toThrow(
      expect.objectContaining({ code: 'TABLE_DIVERGED', detail: { relation: 7 } }),
    );
  });
});
