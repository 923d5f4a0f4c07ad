import type { ApplyTable } from './apply-table.ts';
import { stage } from './staged-rows.ts';

/**
 * The rows of tables without a key that are staged and still to be removed, in the open transaction of a
 * session. Each removal reads its table once, so it waits as long as it may, over the batches of a large
 * transaction: until the commit, a TRUNCATE of the table, or so many rows that they would not fit into
 * memory. What waits leaves after rows that came later, so it may not where an index would refuse those,
 * nor past a change of the table's shape, which gives its rows values that those to remove do not have.
 */
export class Removals {
  readonly #waiting = new Map<number, Waiting>();
  /** Names of staging tables: a table of another shape, which is another object, has another. */
  readonly #places = new Map<ApplyTable, string>();
  /** Those that may hold rows of this transaction, or exist in this session. */
  readonly #used = new Set<string>();
  readonly #made = new Set<string>();
  readonly #isUnique = new Map<number, boolean>();

  /** Whether it is known of the table if it has an index that refuses rows. */
  isKnown(table: ApplyTable): boolean {
    return this.#isUnique.has(table.oid);
  }

  know(table: ApplyTable, isUnique: boolean): void {
    this.#isUnique.set(table.oid, isUnique);
  }

  /** Where the rows of the table are staged. */
  place(table: ApplyTable): string {
    let place = this.#places.get(table);
    if (place === undefined) {
      place = `pg_temp.understudy_${this.#places.size}`;
      this.#places.set(table, place);
    }
    return place;
  }

  /** Whether rows wait that the table had when its shape was another. */
  isChanged(table: ApplyTable): boolean {
    const waiting = this.#waiting.get(table.oid);
    return waiting !== undefined && waiting.table !== table;
  }

  /** Statements to run before rows are staged. */
  prepare(table: ApplyTable): readonly string[] {
    if (this.#waiting.has(table.oid)) return [];
    const place = this.place(table);
    const statements = stage(table, place, this.#used.has(place));
    this.#used.add(place);
    this.#made.add(place);
    return statements;
  }

  /** Rows were staged; whether their removal may wait. */
  add(table: ApplyTable, staged: { readonly rows: number; readonly bytes: number }): boolean {
    const before = this.#waiting.get(table.oid);
    const rows = staged.rows + (before?.rows ?? 0);
    const bytes = staged.bytes + (before?.bytes ?? 0);
    this.#waiting.set(table.oid, { table, rows, bytes });
    return this.#isUnique.get(table.oid) === false && rows < ROWS_MAX && bytes < BYTES_MAX;
  }

  /** What waits of the table, in the shape that it had; it does not any more. */
  take(table: ApplyTable): Waiting | undefined {
    const waiting = this.#waiting.get(table.oid);
    this.#waiting.delete(table.oid);
    return waiting;
  }

  waiting(): readonly ApplyTable[] {
    return [...this.#waiting.values()].map(({ table }) => table);
  }

  /** What waits now, to be given to `restore` if what follows is rolled back. */
  save(): ReadonlyMap<number, Waiting> {
    return new Map(this.#waiting);
  }

  restore(saved: ReadonlyMap<number, Waiting>): void {
    this.#waiting.clear();
    for (const [oid, waiting] of saved) this.#waiting.set(oid, waiting);
  }

  /** The transaction is over. */
  ended(): void {
    this.#waiting.clear();
    this.#used.clear();
  }

  /** Each commit empties all staging tables: beyond some, they are to be dropped between transactions. */
  get areTooMany(): boolean {
    return this.#made.size > TABLES_MAX;
  }

  /** The staging tables were dropped. */
  dropped(): void {
    this.#made.clear();
  }
}

type Waiting = { readonly table: ApplyTable; readonly rows: number; readonly bytes: number };

/** The join that finds them keeps these in memory. */
const ROWS_MAX = 200_000;
const BYTES_MAX = 32 * 1024 * 1024;
const TABLES_MAX = 100;
