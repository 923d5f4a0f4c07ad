import { quoteLiteral, quoteTable, type TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import {
  askUnblocked,
  findSequences,
  type FoundSequence,
  listBlocked,
  type Position,
  readPositions,
  type UnreadSequence,
} from './read-sequences.ts';

const SET_BATCH = 100;

type Moved = {
  readonly moved: number;
  /** Where somebody locks or hides a sequence, or drops it now; each is to be tried again. */
  readonly unread: readonly UnreadSequence[];
};

/**
 * Bring the target's sequences along: each that exists on both sides and belongs to one of `tables`
 * (quoted names) or to none at all, stands at the source's position afterwards, or beyond it. One that
 * cannot be read or set now is left for later, since neither rows nor production may wait for it.
 *
 * Never behind, and never moved back, is all that can be said (trap 27): a sequence is outside of any
 * transaction and snapshot, the stream does not carry it, and a value that was handed out stays so after
 * a rollback. Being ahead costs numbers; being behind would hand a number out twice (I8).
 */
export async function syncSequences(options: {
  readonly source: Session;
  readonly target: Session;
  readonly tables: ReadonlySet<string>;
}): Promise<Moved> {
  const { source, target, tables } = options;
  const wanted = await readPositions(source, await findWanted(source, tables));
  if (wanted.found.length === 0) return { moved: 0, unread: wanted.unread };
  const names = new Set(wanted.found.map(quoteTable));
  const present = await readPositions(
    target,
    (await findSequences(target)).filter((sequence) => names.has(quoteTable(sequence))),
  );
  const mine = new Map(present.found.map((sequence) => [quoteTable(sequence), sequence.position]));
  const behind = wanted.found.filter((sequence) => {
    const position = mine.get(quoteTable(sequence));
    return position !== undefined && isBehind(position, sequence);
  });
  const set = await askUnblocked(target, behind, {
    batch: SET_BATCH,
    sql: (some) =>
      some
        .map(({ position, ...sequence }) => {
          const name = quoteLiteral(quoteTable(sequence));
          return `SELECT pg_catalog.setval(${name}, '${position.last}', ${position.isCalled})`;
        })
        .join('; '),
  });
  const unread = [...wanted.unread, ...present.unread, ...set.unread];
  return { moved: behind.length - set.unread.length, unread };
}

/** The sequences that `syncSequences` brings along for these tables (quoted names). */
export async function readSequenceNames(
  source: Session,
  tables: ReadonlySet<string>,
): Promise<{ readonly names: readonly TableName[]; readonly unread: readonly UnreadSequence[] }> {
  const wanted = await findWanted(source, tables);
  return {
    names: wanted
      .filter(({ obstacle }) => obstacle === undefined)
      .map(({ schema, name }) => ({ schema, name })),
    unread: listBlocked(wanted),
  };
}

async function findWanted(
  source: Session,
  tables: ReadonlySet<string>,
): Promise<readonly FoundSequence[]> {
  const sequences = await findSequences(source);
  return sequences.filter(({ owner }) => owner === undefined || tables.has(owner));
}

function isBehind(
  mine: Position,
  theirs: FoundSequence & { readonly position: Position },
): boolean {
  const { last, isCalled } = theirs.position;
  if (mine.last === last) return isCalled && !mine.isCalled;
  return theirs.isAscending ? mine.last < last : mine.last > last;
}
