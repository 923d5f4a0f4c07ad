import type { ApplyStatement, ApplyTable } from './apply-table.ts';

/** A statement and the name that it has, or is about to get, on the server. */
export type PreparedStatement = ApplyStatement & { readonly name: string; isParsed: boolean };

/**
 * The apply statements of a session, by table and shape: each is put together and parsed once. What is
 * in here and was not parsed (its pipeline failed before) is forgotten with the rest by `clear`.
 */
export class PreparedStatements {
  #byTable = new Map<ApplyTable, Map<string, PreparedStatement>>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get(table: ApplyTable, shape: string, build: () => ApplyStatement): PreparedStatement {
    let shapes = this.#byTable.get(table);
    if (shapes === undefined) {
      shapes = new Map();
      this.#byTable.set(table, shapes);
    }
    let statement = shapes.get(shape);
    if (statement === undefined) {
      statement = { ...build(), name: `s${this.#count}`, isParsed: false };
      this.#count += 1;
      shapes.set(shape, statement);
    }
    return statement;
  }

  clear(): void {
    this.#byTable = new Map();
    this.#count = 0;
  }
}
