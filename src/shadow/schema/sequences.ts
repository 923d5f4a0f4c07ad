import { quoteTable, type TableName } from '#src/core/table.ts';
import { USER_RELATIONS } from '#src/db/postgres/catalog/catalog.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';

import { nameOf, textOf } from './rows.ts';

/** Where a sequence stands. With `isCalled` the next value is one step on, without it is `last`. */
type Position = { readonly last: bigint; readonly isCalled: boolean };

type Sequence = TableName & {
  readonly isAscending: boolean;
  /** The quoted name of the table whose column owns it. */
  readonly owner: string | undefined;
  readonly position: Position;
};

/**
 * Bring the target's sequences along: each that exists on both sides and belongs to one of `tables`
 * (quoted names) or to none at all, stands at the source's position afterwards, or beyond it. Returns
 * how many were moved.
 *
 * Never behind, and never moved back, is all that can be said (trap 27): a sequence is outside of any
 * transaction and snapshot, the stream does not carry it, and a value that was handed out stays so after
 * a rollback. Being ahead costs numbers; being behind would hand a number out twice (I8).
 */
export async function syncSequences(options: {
  readonly source: Session;
  readonly target: Session;
  readonly tables: ReadonlySet<string>;
}): Promise<number> {
  const { source, target, tables } = options;
  const wanted = (await readSequences(source)).filter(
    (sequence) => sequence.owner === undefined || tables.has(sequence.owner),
  );
  if (wanted.length === 0) return 0;
  const present = new Map(
    (await readSequences(target)).map((sequence) => [quoteTable(sequence), sequence]),
  );
  const behind = wanted.filter((sequence) => {
    const mine = present.get(quoteTable(sequence));
    return mine !== undefined && isBehind(mine.position, sequence);
  });
  if (behind.length === 0) return 0;
  await target.query(
    `SELECT setval(name::regclass, last::bigint, is_called::boolean)
       FROM unnest($1::text[], $2::text[], $3::text[]) AS s (name, last, is_called)`,
    [
      behind.map(quoteTable),
      behind.map((sequence) => String(sequence.position.last)),
      behind.map((sequence) => String(sequence.position.isCalled)),
    ],
  );
  return behind.length;
}

/** The sequences that `syncSequences` brings along for these tables (quoted names). */
export async function readSequenceNames(
  source: Session,
  tables: ReadonlySet<string>,
): Promise<readonly TableName[]> {
  const sequences = await readSequences(source);
  return sequences
    .filter(({ owner }) => owner === undefined || tables.has(owner))
    .map(({ schema, name }) => ({ schema, name }));
}

function isBehind(mine: Position, { position: theirs, isAscending }: Sequence): boolean {
  if (mine.last === theirs.last) return theirs.isCalled && !mine.isCalled;
  return isAscending ? mine.last < theirs.last : mine.last > theirs.last;
}

/** pg_sequences does not tell where a sequence stands that was never called: then last_value is NULL. */
const SEQUENCES_SQL = `
SELECT n.nspname, c.relname, q.seqincrement > 0 AS is_ascending, pg_sequence_last_value(c.oid) AS last_value,
       t.nspname AS owner_schema, t.relname AS owner_name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence q ON q.seqrelid = c.oid
  LEFT JOIN LATERAL (
    SELECT o.relname, m.nspname
      FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid JOIN pg_namespace m ON m.oid = o.relnamespace
     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  ) t ON true
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND ${USER_RELATIONS}`;

async function readSequences(session: Session): Promise<readonly Sequence[]> {
  const rows = await session.query(SEQUENCES_SQL);
  const uncalled = await readUncalled(
    session,
    rows.filter((row) => row['last_value'] === null).map(nameOf),
  );
  return rows.map((row) => {
    const name = nameOf(row);
    const last = row['last_value'] ?? undefined;
    const position =
      last === undefined ? uncalled.get(quoteTable(name)) : { last: BigInt(last), isCalled: true };
    assert(position !== undefined, `no position of sequence ${quoteTable(name)}`);
    return { ...name, isAscending: row['is_ascending'] === 't', owner: ownerOf(row), position };
  });
}

function ownerOf(row: Row): string | undefined {
  if (row['owner_name'] === null) return undefined;
  return quoteTable({ schema: textOf(row, 'owner_schema'), name: textOf(row, 'owner_name') });
}

/** Read from the sequences themselves, since setval(…, false) can put one anywhere. */
async function readUncalled(
  session: Session,
  names: readonly TableName[],
): Promise<ReadonlyMap<string, Position>> {
  if (names.length === 0) return new Map();
  const rows = await session.query(
    names
      .map((name, at) => `SELECT ${at} AS at, last_value, is_called FROM ${quoteTable(name)}`)
      .join(' UNION ALL '),
  );
  return new Map(
    rows.map((row) => {
      const name = names[Number(row['at'])];
      assert(name !== undefined, 'the position of a sequence that was not asked for');
      const last = BigInt(textOf(row, 'last_value'));
      // It may have been called since the first query.
      return [quoteTable(name), { last, isCalled: row['is_called'] === 't' }];
    }),
  );
}
