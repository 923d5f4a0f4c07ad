import type { Lsn } from '#src/core/lsn.ts';
import { quoteTable } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Relation } from '#src/wire/postgres/pgoutput.ts';

import { describeShapeChange, type FollowedTable } from './followed-table.ts';

/** The tables of an apply loop, and which changes of theirs it takes. */
export type LoopTables = {
  /** By source OID, those included whose changes are skipped. */
  readonly all: ReadonlyMap<number, FollowedTable>;
  /** Whether they must be read again, now that the loop has stood. */
  readonly isOutdated: boolean;
  /**
   * The stream describes a table. Whether its changes are to be read by another shape from here on, so
   * that what was collected must be applied first.
   */
  relation: (relation: Relation) => boolean;
  /**
   * The table that a change goes to, or undefined when it is skipped. Throws PUBLICATION_CHANGED for a
   * relation that is not of this shadow, and TABLE_CHANGED, with `relation` in `detail`.
   */
  take: (oid: number, commitLsn: Lsn) => FollowedTable | undefined;
};

/** Those of the main loop: a table whose shape in the stream is not the recorded one has changed. */
export class FollowedTables implements LoopTables {
  readonly all: ReadonlyMap<number, FollowedTable>;
  readonly #shapeChanges = new Map<number, string>();
  readonly #hasHandOver: () => boolean;

  /** `hasHandOver`: whether a lane has handed a table over since they were read. */
  constructor(tables: ReadonlyMap<number, FollowedTable>, hasHandOver = (): boolean => false) {
    this.all = tables;
    this.#hasHandOver = hasHandOver;
  }

  /**
   * A stopped table may have been repaired at the fence that is over. One that was handed over may have come
   * after these were read: a change of its schema, of which no row tells, would be taken for another's.
   */
  get isOutdated(): boolean {
    return this.#hasHandOver() || [...this.all.values()].some(({ isStopped }) => isStopped);
  }

  relation(relation: Relation): boolean {
    const table = this.all.get(relation.oid);
    const change = table === undefined ? undefined : describeShapeChange(table, relation);
    if (change === undefined) this.#shapeChanges.delete(relation.oid);
    else this.#shapeChanges.set(relation.oid, change);
    return false;
  }

  take(oid: number, commitLsn: Lsn): FollowedTable | undefined {
    const table = this.all.get(oid);
    if (table === undefined) throw unknownRelation(oid);
    if (table.isStopped || commitLsn < table.startLsn) return undefined;
    const change = this.#shapeChanges.get(oid);
    if (change === undefined) return table;
    throw new OperatorError(
      'TABLE_CHANGED',
      `table ${quoteTable(table.name)} was changed on the source: ${change}`,
      { detail: { relation: oid } },
    );
  }
}

export function unknownRelation(oid: number): OperatorError {
  return new OperatorError(
    'PUBLICATION_CHANGED',
    `the publication sends relation ${oid}, which is not of this shadow`,
    { detail: { relation: oid } },
  );
}
