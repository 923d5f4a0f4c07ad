import {
  type ArrayParameters,
  writeCopyRows,
  writeRowParameters,
} from '#src/wire/postgres/apply-encoder.ts';
import type { NetChanges, NetEntry, RowChange } from '#src/wire/postgres/change-batch.ts';
import { unchangedColumns } from '#src/wire/postgres/change-batch.ts';
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
import { TAG } from '#src/wire/postgres/pgoutput.ts';

import {
  type ApplyStatement,
  type ApplyTable,
  copyIn,
  deleteMany,
  deleteOne,
  elementOid,
  insertMany,
  insertOne,
  knownIndexes,
  updateMany,
  updateOne,
} from './apply-table.ts';

/** What the server must answer to one statement of a pipeline; undefined: nothing that is checked. */
export type Expectation = { readonly table: ApplyTable; readonly rows: number } | undefined;

/** Up to this many rows, single statements are cheaper than arrays. */
const SINGLE_ROWS_MAX = 2;
/** From this many new rows on, COPY is cheaper than arrays. */
const COPY_ROWS_MIN = 50;
/** Rows of one array statement: its parameters stay far below the limit of a message. */
const ARRAY_ROWS_MAX = 20_000;
/** Prepared statements are forgotten beyond this number, for the memory of the server. */
export const PREPARED_MAX = 1_000;

/**
 * Builds what is sent to the target in one go, and remembers what each statement must answer.
 *
 * Statements are prepared by their text, once a session. COPY goes by simple query, which needs no
 * answer before its rows are sent: a server that failed before ignores them.
 */
export class ApplyPipeline {
  readonly expectations: Expectation[] = [];
  /** ReadyForQuery messages to wait for. */
  answers = 0;
  /** The first value that comes back is the epoch of the lease. */
  checksLease = false;

  readonly #to: MessageWriter;
  readonly #prepared: Map<string, string>;
  readonly #arrays: ArrayParameters;
  #needsSync = false;

  constructor(to: MessageWriter, prepared: Map<string, string>, arrays: ArrayParameters) {
    this.#to = to;
    this.#prepared = prepared;
    this.#arrays = arrays;
  }

  /** The messages, to be sent. */
  take(): Buffer {
    return this.#to.view();
  }

  get bytes(): number {
    return this.#to.length;
  }

  /** Several statements without parameters; `statements` is how many answers they give. */
  query(sql: string, statements: number): void {
    this.sync();
    writeQuery(this.#to, sql);
    for (let i = 0; i < statements; i++) this.expectations.push(undefined);
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
    // Deletes first: they free the unique values that the others may take.
    if (deletes.length > 0) this.#deletes(table, deletes);
    for (const [unchanged, entries] of updates) this.#updates(table, entries, unchanged);
    if (inserts.length > 0) this.#inserts(table, inserts);
  }

  /** One change as it came. */
  row(change: RowChange<ApplyTable>): void {
    const { tag, table, bytes, before, after } = change;
    if (tag === TAG.insert) {
      this.#one(table, insertOne(table), { bytes, key: after, row: after });
    } else if (tag === TAG.delete) {
      this.#one(table, deleteOne(table), { bytes, key: before, row: before });
    } else {
      const statement = updateOne(table, unchangedColumns(bytes, after));
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
    if (takesArrays(table, entries, table.keyIndexes)) {
      this.#many(table, deleteMany(table), entries);
    } else {
      for (const { bytes, at } of entries) {
        this.#one(table, deleteOne(table), { bytes, key: at, row: at });
      }
    }
  }

  #updates(table: ApplyTable, entries: readonly NetEntry[], unchanged: string): void {
    if (takesArrays(table, entries, knownIndexes(table, unchanged))) {
      this.#many(table, updateMany(table, unchanged), entries);
    } else {
      const statement = updateOne(table, unchanged);
      for (const { bytes, at } of entries) this.#one(table, statement, { bytes, key: at, row: at });
    }
  }

  #inserts(table: ApplyTable, entries: readonly NetEntry[]): void {
    const indexes = table.columns.map((_, i) => i);
    if (entries.length >= COPY_ROWS_MIN) {
      this.sync();
      writeQuery(this.#to, copyIn(table));
      writeCopyRows(this.#to, entries, table.format);
      this.#to.bytes(copyDone());
      this.expectations.push({ table, rows: entries.length });
      this.answers += 1;
    } else if (takesArrays(table, entries, indexes)) {
      this.#many(table, insertMany(table), entries);
    } else {
      for (const { bytes, at } of entries) {
        this.#one(table, insertOne(table), { bytes, key: at, row: at });
      }
    }
  }

  #many(table: ApplyTable, statement: ApplyStatement, entries: readonly NetEntry[]): void {
    for (let first = 0; first < entries.length; first += ARRAY_ROWS_MAX) {
      const some = entries.slice(first, first + ARRAY_ROWS_MAX);
      this.#arrays.fill(some, statement.indexes, table.format);
      this.#bind(table, statement);
      statement.indexes.forEach((index, i) => {
        this.#arrays.write(this.#to, i, elementOid(table, index));
      });
      this.#execute({ table, rows: some.length });
    }
  }

  #one(
    table: ApplyTable,
    statement: ApplyStatement,
    tuples: { readonly bytes: Buffer; readonly key: number; readonly row: number },
  ): void {
    const { bytes, key, row } = tuples;
    this.#bind(table, statement);
    writeRowParameters(this.#to, { bytes, at: key }, statement.beforeIndexes, table.format);
    writeRowParameters(this.#to, { bytes, at: row }, statement.indexes, table.format);
    this.#execute({ table, rows: 1 });
  }

  #bind(table: ApplyTable, statement: ApplyStatement): void {
    let name = this.#prepared.get(statement.sql);
    if (name === undefined) {
      name = `s${this.#prepared.size}`;
      this.#prepared.set(statement.sql, name);
      writeParse(this.#to, name, statement.sql, statement.parameterOids);
    }
    const isBinary = statement.parameterOids.length > 0 || table.format === 'binary';
    beginBind(this.#to, {
      portal: '',
      statement: name,
      formats: [isBinary ? 1 : 0],
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

function takesArrays(
  table: ApplyTable,
  entries: readonly NetEntry[],
  indexes: readonly number[],
): boolean {
  if (entries.length <= SINGLE_ROWS_MAX) return false;
  return (
    table.format === 'text' || !indexes.some((index) => table.columns[index]?.isArray === true)
  );
}
