import type { TableName } from './table.ts';

/** Something that is not on the target as it is on the source. Keys, never other values (I14). */
export type Difference =
  | {
      /** In the source only, in the target only, or in both with other values. */
      readonly kind: 'missing' | 'extra' | 'changed';
      readonly table: TableName;
      /** The key's text by column; empty for a table without a key. */
      readonly key: Readonly<Record<string, string | null>>;
      /** The columns that differ; empty unless changed. */
      readonly columns: readonly string[];
    }
  | {
      readonly kind: 'schema';
      readonly table: TableName;
      /** What is not the same, in words. */
      readonly cause: string;
    }
  | {
      /** The target would hand out values that the source has used. */
      readonly kind: 'sequence';
      readonly table: TableName;
      readonly cause: string;
    };

/** Differences, all of them counted and the first ones kept. */
export class DifferenceList {
  readonly kept: Difference[] = [];
  count = 0;
  readonly #keptMax: number;

  constructor(keptMax: number) {
    this.#keptMax = keptMax;
  }

  get isFull(): boolean {
    return this.kept.length >= this.#keptMax;
  }

  add(difference: Difference): void {
    this.count += 1;
    if (!this.isFull) this.kept.push(difference);
  }

  /** Count without keeping, for what nobody will look at one by one. */
  countMore(count: number): void {
    this.count += count;
  }
}
