/**
 * The schema from hell is a list of items: something that a schema can have, and what production does to
 * it. An item that is in the schema is thus in the workload, and nothing can be in one of them only.
 */
export type Item = {
  readonly name: string;
  /** The first major that has it. */
  readonly since?: number;
  /** Definitions and first rows. Everything is in schema `hell` unless its name is what matters. */
  readonly sql: string;
  /** Each is a piece of a transaction; one of them is taken at a time. */
  readonly changes: readonly Change[];
};

/**
 * Statements that succeed in any state that the item's own changes can have left. Which rows they touch
 * follows from `salt`, so that the same seed makes the same decisions. Every text starts with the marker.
 */
export type Change = (turn: Turn) => readonly string[];

export type Turn = {
  readonly random: () => number;
  /** `zqrow`, the worker and the number of its transaction: never the same twice. */
  readonly salt: string;
  /** A table that is emptied while it is copied starts again (trap 2), so until then it is rare. */
  readonly mayTruncate: boolean;
};

/** The key of some row, as a subquery; the same row for the same salt while the rows are the same. */
export function anyOf(table: string, key: string, salt: string, where = 'true'): string {
  return `(SELECT ${key} FROM ${table} WHERE ${where} ORDER BY md5(${key}::text || '${salt}') LIMIT 1)`;
}

/** The place of some row: for tables without a key. */
export function anyPlace(table: string, salt: string, where = 'true'): string {
  return `(SELECT ctid FROM ONLY ${table} r WHERE ${where} ORDER BY md5(r::text || '${salt}'), ctid LIMIT 1)`;
}

export function pick<T>(list: readonly T[], random: () => number): T {
  const chosen = list[Math.floor(random() * list.length)];
  if (chosen === undefined) throw new Error('nothing to pick from');
  return chosen;
}

/** A whole number from 0 to `end`, without it. */
export function below(end: number, random: () => number): number {
  return Math.floor(random() * end);
}
