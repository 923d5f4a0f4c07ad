import { chooseStrategy, type Chunking, WHOLE } from '#src/core/chunk.ts';
import type { Difference } from '#src/core/difference.ts';
import type { Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { proposeChunking, readChunking } from './chunking.ts';
import type { PreparedTable } from './comparison.ts';
import type { Pair } from './pair.ts';
import { compareStructure } from './structure.ts';
import { readUnsynced } from './verify-ledger.ts';

export type Prepared = {
  readonly tables: readonly PreparedTable[];
  /** What is known to differ before a row is read. */
  readonly differences: readonly Difference[];
  /** Columns and tables of which the verdict will say nothing. */
  readonly unverified: readonly string[];
  /** Tables, by OID, that have stopped following; among `tables` only when they were asked for. */
  readonly stopped: ReadonlySet<number>;
};

/** Everything that does not need the moment, so that the follower is held as shortly as possible. */
export async function prepare(options: {
  readonly pair: Pair;
  readonly control: Session;
  readonly shadowId: string | undefined;
  readonly tables: readonly Table[];
  /** To be mended, a stopped table has to be read. */
  readonly isWithStopped: boolean;
}): Promise<Prepared> {
  const { pair, control, shadowId } = options;
  const unsynced = shadowId === undefined ? new Map() : await readUnsynced(control, shadowId);
  const stopped = options.tables.filter(({ oid }) => unsynced.get(oid) === 'stopped');
  const inLane = options.tables.filter(({ oid }) => unsynced.get(oid) === 'in a lane');
  const notCopied = options.tables.filter(({ oid }) => unsynced.get(oid) === 'not copied');
  const following = options.tables.filter(
    (table) =>
      !inLane.includes(table) &&
      !notCopied.includes(table) &&
      (options.isWithStopped || !stopped.includes(table)),
  );
  const structure = await compareStructure(pair, following);
  const known =
    shadowId === undefined ? new Map<number, Chunking>() : await readChunking(control, shadowId);
  const proposed = await proposeChunking({
    ...pair,
    tables: following.filter(({ oid }) => !known.has(oid)),
  });
  return {
    stopped: new Set(stopped.map(({ oid }) => oid)),
    differences: [
      ...stopped.map(({ schema, name }) => ({
        kind: 'schema' as const,
        table: { schema, name },
        cause: 'has stopped following its source and was not compared',
      })),
      ...inLane.map(({ schema, name }) => ({
        kind: 'schema' as const,
        table: { schema, name },
        cause: 'is on its way back to following and was not compared',
      })),
      ...structure.differences,
    ],
    unverified: [
      ...notCopied.map((table) => `${nameOf(table)} (not copied yet)`),
      ...structure.comparable.flatMap(({ table, hash }) =>
        hash.unverified.map((column) => `${nameOf(table)}.${column}`),
      ),
    ],
    tables: structure.comparable.map((comparable) => {
      const { table } = comparable;
      const chunking = known.get(table.oid) ?? proposed.get(table.oid) ?? WHOLE;
      const isUsable = suits(chunking, table);
      return {
        ...comparable,
        chunking: isUsable ? chunking : WHOLE,
        isMarked: isUsable && known.has(table.oid),
      };
    }),
  };
}

/** A plan counts only for the key that it was made for. */
function suits(chunking: Chunking, table: Table): boolean {
  const { strategy, column } = chooseStrategy(table);
  if (chunking.strategy === 'whole') return true;
  return chunking.strategy === strategy && chunking.column === column;
}

export function nameOf({ schema, name }: Pick<Table, 'schema' | 'name'>): string {
  return `${schema}.${name}`;
}
