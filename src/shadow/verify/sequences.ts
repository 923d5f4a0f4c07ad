import type { Difference } from '#src/core/difference.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteLiteral, type TableName } from '#src/core/table.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { askUnblocked, type UnreadSequence } from '#src/shadow/schema/read-sequences.ts';

export type SequenceValue = TableName & {
  readonly increment: bigint;
  /** The value handed out last; undefined before the first. */
  readonly last: bigint | undefined;
};

export type SequenceValues = {
  readonly values: readonly SequenceValue[];
  /** Those that somebody locks now. */
  readonly unread: readonly UnreadSequence[];
};

export const NO_SEQUENCES: SequenceValues = { values: [], unread: [] };

/** Each takes a lock for the statement, of which a server has few. */
const BATCH = 100;

/**
 * As `readSequenceValues`, on a session of its own. To read a sequence locks it until the transaction ends:
 * in that of a comparison, production's TRUNCATE … RESTART IDENTITY would wait for all of it, and every
 * nextval() behind that.
 */
export async function readSequencesNow(
  endpoint: Endpoint,
  sequences: readonly TableName[],
): Promise<SequenceValues> {
  if (sequences.length === 0) return NO_SEQUENCES;
  await using session = await openSession(endpoint, { applicationName: 'understudy verify' });
  return await readSequenceValues(session, sequences);
}

/**
 * Where sequences stand now: they know no snapshots. Those that do not exist, or may not be read, are missing. In
 * small statements that end at once and wait for nobody for long: the follower may be held meanwhile.
 * Never in a transaction that goes on.
 */
export async function readSequenceValues(
  session: Session,
  sequences: readonly TableName[],
): Promise<SequenceValues> {
  const { answers, unread } = await askUnblocked(session, sequences, {
    batch: BATCH,
    sql: valuesSql,
  });
  const rows = answers.flatMap((answer) => answer.rows);
  const values = rows.map((row) => ({
    schema: row['nspname'] ?? '',
    name: row['relname'] ?? '',
    increment: BigInt(row['seqincrement'] ?? '1'),
    last: row['last'] === null || row['last'] === undefined ? undefined : BigInt(row['last']),
  }));
  return { values, unread };
}

function valuesSql(sequences: readonly TableName[]): string {
  const names = sequences.map(
    ({ schema, name }) => `(${quoteLiteral(schema)}, ${quoteLiteral(name)})`,
  );
  return `SELECT w.nspname, w.relname, s.seqincrement,
            CASE WHEN has_sequence_privilege(c.oid, 'SELECT') THEN pg_sequence_last_value(c.oid) END AS last
       FROM (VALUES ${names.join(', ')}) AS w (nspname, relname)
       JOIN pg_namespace n ON n.nspname = w.nspname
       JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname AND c.relkind = 'S'
       JOIN pg_sequence s ON s.seqrelid = c.oid`;
}

/** Those of which a comparison can say nothing, as sentences. */
export function describeUnread(...sides: readonly SequenceValues[]): readonly string[] {
  return sides.flatMap(({ unread }) =>
    unread.map(({ schema, name, reason }) => `${schema}.${name} (sequence: ${reason})`),
  );
}

/**
 * Sequences that would hand out on the target what the source has handed out (trap 27). They are never
 * equal by design: a target that is ahead is right. `source` must have been read before `target` was
 * brought to the same moment.
 */
export function compareSequences(
  source: SequenceValues,
  target: SequenceValues,
): readonly Difference[] {
  const byName = new Map(target.values.map((value) => [nameOf(value), value]));
  const unread = new Set(target.unread.map(nameOf));
  const known = source.values.filter((value) => !unread.has(nameOf(value)));
  return known.flatMap((ours): Difference[] => {
    const theirs = byName.get(nameOf(ours));
    const table = { schema: ours.schema, name: ours.name };
    if (theirs === undefined) return [{ kind: 'sequence', table, cause: 'is not on the target' }];
    if (ours.last === undefined) return [];
    const isBehind =
      theirs.last === undefined ||
      (ours.increment > 0n ? theirs.last < ours.last : theirs.last > ours.last);
    return isBehind
      ? [{ kind: 'sequence', table, cause: `is at ${ours.last}, there ${theirs.last ?? 'unused'}` }]
      : [];
  });
}

function nameOf({ schema, name }: TableName): string {
  return JSON.stringify([schema, name]);
}
