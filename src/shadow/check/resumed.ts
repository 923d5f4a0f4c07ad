import { quoteTable } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import type { CheckId } from './checks.ts';
import { type CheckContext, describeTable } from './context.ts';
import type { Finding } from './finding.ts';

/**
 * What a shadow that exists must not be kept from going on by: tables that it does not follow, such as one
 * that production has made since, and what only definitions need that are on the target already. To refuse
 * these would leave every other table behind while the slot keeps production's WAL.
 */

/** What the definitions need, or what is brought along as far as it can be read. */
const OF_DEFINITIONS: ReadonlySet<string> = new Set([
  'sequence-privilege',
  'encoding-name',
  'target-superuser',
  'extension-missing',
  'extension-schema',
  'collation-missing',
  'lz4-missing',
  'role-missing',
] satisfies CheckId[]);

/**
 * OIDs of the tables that the shadow copies or follows, without those that have stopped and those that are
 * on their way back, which fail by themselves; undefined while its definitions are not on the target.
 */
export async function readFollowedOids(
  target: Session,
  shadowId: string,
): Promise<ReadonlySet<number> | undefined> {
  const steps = await target.query('SELECT FROM understudy.step WHERE shadow_id = $1 LIMIT 1', [
    shadowId,
  ]);
  if (steps.length === 0) return undefined;
  const rows = await target.query(
    `SELECT source_oid FROM understudy.relation
      WHERE shadow_id = $1 AND state <> 'stopped' AND NOT is_in_lane`,
    [shadowId],
  );
  return new Set(rows.map((row) => Number(row['source_oid'])));
}

/** Objects of findings that are about tables which the shadow does not follow. */
export function unfollowedObjects({ relations, followedOids }: CheckContext): ReadonlySet<string> {
  if (followedOids === undefined) return new Set();
  const followed = relations.tables.filter(({ oid }) => followedOids.has(oid));
  const roots = new Set(
    followed.flatMap(({ partitionRoot: root }) => (root === undefined ? [] : [quoteTable(root)])),
  );
  return new Set(
    [
      ...relations.tables.filter((table) => !followed.includes(table)),
      ...relations.partitioned.filter((table) => !roots.has(quoteTable(table))),
      ...relations.unsupported,
    ].map(describeTable),
  );
}

/** The finding as it is, or a warning when the shadow goes on without what it is about. */
export function asResumed(
  finding: Finding,
  { followedOids }: CheckContext,
  unfollowed: ReadonlySet<string>,
): Finding {
  if (finding.severity !== 'refuse' || followedOids === undefined) return finding;
  if (unfollowed.has(finding.object)) {
    const cause = `${finding.cause}; the shadow goes on, and does not follow it`;
    return { ...finding, severity: 'warn', cause };
  }
  if (!OF_DEFINITIONS.has(finding.id)) return finding;
  const cause = `${finding.cause}; the shadow goes on with the definitions that it has`;
  return { ...finding, severity: 'warn', cause };
}
