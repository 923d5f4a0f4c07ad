import type { ColumnExclusion, RowFilter } from './row-filter.ts';

/** Which tables belong to the dataset. Patterns are those of pg_dump. Empty lists select everything. */
export type Selection = {
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
  readonly exclude: readonly string[];
  /** Of selected tables, the rows that belong to the dataset. Sorted, as the next: a shadow is found by its selection. */
  readonly where: readonly RowFilter[];
  readonly excludeColumns: readonly ColumnExclusion[];
};

export const EVERYTHING: Selection = {
  schemas: [],
  tables: [],
  exclude: [],
  where: [],
  excludeColumns: [],
};
