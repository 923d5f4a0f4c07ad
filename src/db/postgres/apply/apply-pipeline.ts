import {
  type ArrayParameters,
  writeCopyRows,
  writeRowParameters,
} from '#src/wire/postgres/apply-encoder.ts';
import type { NetChanges, RowChange } from '#src/wire/postgres/change-batch.ts';
import {
  beginBind,
  copyDone,
  endBind,
  writeExecute,
  writeParse,
  writeQuery,
  writeSync,
} from '#src/wire/postgres/frontend.ts';
import type { MessageWriter } from '#src/wire/postgres/message-writer.ts';
import { isKeyless, type NetEntry } from '#src/wire/postgres/net-entry.ts';
import { TAG } from '#src/wire/postgres/pgoutput.ts';
import { unchangedColumns } from '#src/wire/postgres/row-tuple.ts';

import {
  type ApplyTable,
  copyIn,
  copyInto,
  deleteMany,
  deleteOne,
  elementOid,
  insertMany,
  insertOne,
  updateMany,
  updateOne,
} from './apply-table.ts';
import type { PreparedStatement, PreparedStatements } from './prepared-statements.ts';
import type { Removals } from './removals.ts';
import { removeStaged } from './staged-rows.ts';

/** What a statement of a pipeline is for, and what the server must answer. */
export type Expectation =
  | { readonly kind: 'rows'; readonly table: ApplyTable; readonly rows: number }
  /** These fail by themselves, with division_by_zero, when their row is not there. */
  | { readonly kind: 'lease' | 'progress' }
  | { readonly kind: 'nothing' };

const NOTHING: Expectation = { kind: 'nothing' };

/** Up to this many rows, single statements are cheaper than arrays. */
const SINGLE_ROWS_MAX = 2;
/** From this many new rows on, COPY is cheaper than arrays. */
const COPY_ROWS_MIN = 50;
/** Rows of one array statement: its parameters stay far below the limit of a message. */
const ARRAY_ROWS_MAX = 20_000;

/** What the pipelines of a session share. */
export type PipelineSession = {
  readonly writer: MessageWriter;
  readonly prepared: PreparedStatements;
  readonly arrays: ArrayParameters;
  readonly removals: Removals;
};

/**
 * Builds what is sent to the target in one go, and remembers what each statement must answer.
 *
 * Statements are prepared once a session. COPY goes by simple query, which needs no answer before its
 * rows are sent: a server that failed before ignores them.
 */
export class ApplyPipeline {
  readonly expectations: Expectation[] = [];
  /** ReadyForQuery messages to wait for. */
  answers = 0;
  /** How rows are sent, for failpoints. */
  readonly shapes = new Set<'arrays' | 'copy' | 'row'>();
  /** It ends the transaction. */
  commits = false;

  readonly #to: MessageWriter;
  readonly #prepared: PreparedStatements;
  readonly #arrays: ArrayParameters;
  readonly #removals: Removals;
  #needsSync = false;

  constructor(session: PipelineSession) {
    this.#to = session.writer;
    this.#prepared = session.prepared;
    this.#arrays = session.arrays;
    this.#removals = session.removals;
  }

  /** The messages, to be sent. */
  take(): Buffer {
    return this.#to.view();
  }

  get bytes(): number {
    return this.#to.length;
  }

  /** Statements without parameters, and what each is for. */
  query(statements: readonly (string | readonly [string, Expectation])[]): void {
    this.sync();
    const parts = statements.map((one) =>
      typeof one === 'string' ? ([one, NOTHING] as const) : one,
    );
    writeQuery(this.#to, parts.map(([sql]) => sql).join('; '));
    for (const [, expectation] of parts) this.expectations.push(expectation);
    this.answers += 1;
  }

  /** The net changes of a table, as set statements. */
  net(changes: NetChanges<ApplyTable>): void {
    const { table } = changes;
    const inserts: NetEntry[] = [];
    const deletes: NetEntry[] = [];
    const updates = new Map<string, NetEntry[]>();
    for (const entry of changes.entries()) {
      if (entry.kind === 'insert') inserts.push(entry);
      else if (entry.kind === 'delete') deletes.push(entry);
      else if (updates.get(entry.unchanged)?.push(entry) === undefined) {
        updates.set(entry.unchanged, [entry]);
      }
    }
    if (this.#removals.isChanged(table)) this.remove(table);
    // Deletes first: they free the unique values that the others may take.
    if (deletes.length > 0) {
      if (isKeyless(table)) this.#stage(table, deletes);
      else this.#deletes(table, deletes);
    }
    for (const [unchanged, entries] of updates) this.#updates(table, entries, unchanged);
    if (inserts.length > 0) this.#inserts(table, inserts);
  }

  /** Remove the rows of a table without a key that wait for it: see staged-rows.ts. */
  remove(table: ApplyTable): void {
    const waiting = this.#removals.take(table);
    if (waiting === undefined) return;
    const { before, remove, after } = removeStaged(
      waiting.table,
      this.#removals.place(waiting.table),
    );
    const expectation = { kind: 'rows', table: waiting.table, rows: waiting.rows } as const;
    this.query([...before, [remove, expectation], ...after]);
  }

  /** One change as it came. */
  row(change: RowChange<ApplyTable>): void {
    const { tag, table, bytes, before, after } = change;
    if (tag === TAG.insert) {
      this.#one(table, this.#insertOne(table), { bytes, key: after, row: after });
    } else if (tag === TAG.delete) {
      this.#one(table, this.#deleteOne(table), { bytes, key: before, row: before });
    } else {
      const statement = this.#updateOne(table, unchangedColumns(bytes, after));
      this.#one(table, statement, { bytes, key: before >= 0 ? before : after, row: after });
    }
  }

  /** End the run of prepared statements, so that the server answers. */
  sync(): void {
    if (!this.#needsSync) return;
    writeSync(this.#to);
    this.answers += 1;
    this.#needsSync = false;
  }

  #deletes(table: ApplyTable, entries: readonly NetEntry[]): void {
    const many = this.#prepared.get(table, 'deleteMany', () => deleteMany(table));
    if (takesArrays(table, entries, many.indexes)) {
      this.#many(table, many, entries);
      return;
    }
    const one = this.#deleteOne(table);
    for (const { bytes, at } of entries) this.#one(table, one, { bytes, key: at, row: at });
  }

  #stage(table: ApplyTable, entries: readonly NetEntry[]): void {
    const statements = this.#removals.prepare(table);
    if (statements.length > 0) this.query(statements);
    const before = this.#to.length;
    this.#copy(table, copyInto(this.#removals.place(table), table), entries);
    const staged = { rows: entries.length, bytes: this.#to.length - before };
    if (!this.#removals.add(table, staged)) this.remove(table);
  }

  #updates(table: ApplyTable, entries: readonly NetEntry[], unchanged: string): void {
    const shape = `updateMany ${unchanged}`;
    const many = this.#prepared.get(table, shape, () => updateMany(table, unchanged));
    if (takesArrays(table, entries, many.indexes)) {
      this.#many(table, many, entries);
      return;
    }
    const one = this.#updateOne(table, unchanged);
    for (const { bytes, at } of entries) this.#one(table, one, { bytes, key: at, row: at });
  }

  #inserts(table: ApplyTable, entries: readonly NetEntry[]): void {
    // INSERT can neither name no column nor insert many rows of none.
    if (entries.length >= COPY_ROWS_MIN || table.columns.length === 0) {
      this.#copy(table, copyIn(table), entries);
      return;
    }
    const many = this.#prepared.get(table, 'insertMany', () => insertMany(table));
    if (takesArrays(table, entries, many.indexes)) {
      this.#many(table, many, entries);
      return;
    }
    const one = this.#insertOne(table);
    for (const { bytes, at } of entries) this.#one(table, one, { bytes, key: at, row: at });
  }

  #copy(table: ApplyTable, sql: string, entries: readonly NetEntry[]): void {
    this.shapes.add('copy');
    this.sync();
    writeQuery(this.#to, sql);
    writeCopyRows(this.#to, entries, table.format);
    this.#to.bytes(copyDone());
    this.expectations.push({ kind: 'rows', table, rows: entries.length });
    this.answers += 1;
  }

  #insertOne(table: ApplyTable): PreparedStatement {
    return this.#prepared.get(table, 'insertOne', () => insertOne(table));
  }

  #updateOne(table: ApplyTable, unchanged: string): PreparedStatement {
    const shape = unchanged === '' ? 'updateOne' : `updateOne ${unchanged}`;
    return this.#prepared.get(table, shape, () => updateOne(table, unchanged));
  }

  #deleteOne(table: ApplyTable): PreparedStatement {
    return this.#prepared.get(table, 'deleteOne', () => deleteOne(table));
  }

  #many(table: ApplyTable, statement: PreparedStatement, entries: readonly NetEntry[]): void {
    for (let first = 0; first < entries.length; first += ARRAY_ROWS_MAX) {
      const some =
        entries.length <= ARRAY_ROWS_MAX ? entries : entries.slice(first, first + ARRAY_ROWS_MAX);
      this.#arrays.fill(some, statement.indexes);
      this.#bind(table, statement);
      statement.indexes.forEach((index, i) => {
        this.#arrays.write(this.#to, i, { oid: elementOid(table, index), format: table.format });
      });
      this.#execute({ kind: 'rows', table, rows: some.length });
    }
    this.#arrays.clear();
    this.shapes.add('arrays');
  }

  #one(
    table: ApplyTable,
    statement: PreparedStatement,
    tuples: { readonly bytes: Buffer; readonly key: number; readonly row: number },
  ): void {
    const { bytes, key, row } = tuples;
    this.#bind(table, statement);
    writeRowParameters(this.#to, { bytes, at: key }, statement.beforeIndexes, table.format);
    writeRowParameters(this.#to, { bytes, at: row }, statement.indexes, table.format);
    this.#execute({ kind: 'rows', table, rows: 1 });
    this.shapes.add('row');
  }

  #bind(table: ApplyTable, statement: PreparedStatement): void {
    if (!statement.isParsed) {
      statement.isParsed = true;
      writeParse(this.#to, statement.name, statement.sql, statement.parameterOids);
    }
    const isBinary = statement.isOfArrays || table.format === 'binary';
    beginBind(this.#to, {
      portal: '',
      statement: statement.name,
      formats: isBinary ? BINARY : TEXT,
      parameters: statement.beforeIndexes.length + statement.indexes.length,
    });
  }

  #execute(expectation: Expectation): void {
    endBind(this.#to);
    writeExecute(this.#to);
    this.expectations.push(expectation);
    this.#needsSync = true;
  }
}

const BINARY: readonly number[] = [1];
const TEXT: readonly number[] = [0];

/** Arrays pay off from some rows on, where each column can be an array of its values or of their text. */
function takesArrays(
  table: ApplyTable,
  entries: readonly NetEntry[],
  indexes: readonly number[],
): boolean {
  if (entries.length <= SINGLE_ROWS_MAX) return false;
  return indexes.every((index) => {
    const column = table.columns[index];
    if (column === undefined) return false;
    return table.format === 'text' ? column.isCastInput : !column.isArray && column.arrayOid !== 0;
  });
}
