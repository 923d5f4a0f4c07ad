import { chooseStrategy, type Chunking, WHOLE } from '#src/core/chunk.ts';
import type { Difference } from '#src/core/difference.ts';
import type { Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { proposeChunking, readChunking } from './chunking.ts';
import type { PreparedTable } from './comparison.ts';
import type { Pair } from './pair.ts';
import { compareStructure } from './structure.ts';
import { readUnsynced, type Unsynced } from './verify-ledger.ts';

/** What can be read before the moment. Which tables follow is up to it: see `settle`. */
export type Prepared = {
  readonly tables: readonly PreparedTable[];
  /** What is known to differ before a row is read. */
  readonly differences: readonly Difference[];
  /** Columns of which the verdict will say nothing. */
  readonly unverified: readonly string[];
  /** Tables that were not prepared since they did not follow, by OID. */
  readonly leftOut: ReadonlyMap<number, Unsynced>;
};

export type Settled = Omit<Prepared, 'leftOut'> & {
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
  const { pair, control, shadowId, isWithStopped } = options;
  const unsynced = await readStates(control, shadowId);
  const leftOut = new Map(
    [...unsynced].filter(([, state]) => !(isWithStopped && state === 'stopped')),
  );
  const tables = options.tables.filter(({ oid }) => !leftOut.has(oid));
  const structure = await compareStructure(pair, tables);
  const known =
    shadowId === undefined ? new Map<number, Chunking>() : await readChunking(control, shadowId);
  const proposed = await proposeChunking({
    ...pair,
    tables: tables.filter(({ oid }) => !known.has(oid)),
  });
  return {
    leftOut,
    differences: structure.differences,
    unverified: structure.comparable.flatMap(({ table, hash }) =>
      hash.unverified.map((column) => `${nameOf(table)}.${column}`),
    ),
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

/**
 * What was prepared, as the ledger has it at the moment that `target` reads: a table that has stopped while
 * the follower went to the fence is older than it, and nothing of it is marked (trap 19).
 */
export async function settle(
  target: Session,
  prepared: Prepared,
  options: {
    readonly shadowId: string | undefined;
    readonly tables: readonly Table[];
    readonly isWithStopped: boolean;
  },
): Promise<Settled> {
  const { leftOut, tables, unverified, differences } = prepared;
  const states = new Map([...leftOut, ...(await readStates(target, options.shadowId))]);
  const isRead = (state: Unsynced | undefined): boolean =>
    state === undefined || (options.isWithStopped && state === 'stopped');
  const not = (state: Unsynced): readonly Table[] =>
    options.tables.filter(({ oid }) => states.get(oid) === state);
  return {
    stopped: new Set(not('stopped').map(({ oid }) => oid)),
    tables: tables.filter(({ table }) => isRead(states.get(table.oid))),
    differences: [
      ...not('stopped').map((table) => notCompared(table, 'has stopped following its source')),
      ...not('in a lane').map((table) => notCompared(table, 'is on its way back to following')),
      ...differences,
    ],
    unverified: [
      ...not('not copied').map((table) => `${nameOf(table)} (not copied yet)`),
      ...unverified,
    ],
  };
}

function notCompared({ schema, name }: Table, cause: string): Difference {
  return { kind: 'schema', table: { schema, name }, cause: `${cause} and was not compared` };
}

async function readStates(
  session: Session,
  shadowId: string | undefined,
): Promise<ReadonlyMap<number, Unsynced>> {
  return shadowId === undefined ? new Map() : readUnsynced(session, shadowId);
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
