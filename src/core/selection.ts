/** Which tables belong to the dataset. Patterns are those of pg_dump. Empty lists select everything. */
export type Selection = {
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
  readonly exclude: readonly string[];
};

export const EVERYTHING: Selection = { schemas: [], tables: [], exclude: [] };
