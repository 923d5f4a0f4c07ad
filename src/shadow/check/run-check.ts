import type { OwnersPolicy } from '#src/core/schema-owners.ts';
import type { Selection } from '#src/core/selection.ts';
import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import { readServer, type Server } from '#src/db/postgres/catalog/server.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { checkAccess } from './access.ts';
import type { CheckContext, CheckGroup, TransactionAges } from './context.ts';
import { checkDdlTriggers } from './ddl-triggers.ts';
import { checkEncoding } from './encoding.ts';
import { checkFilters } from './filters.ts';
import type { CheckResult, Finding, Severity } from './finding.ts';
import { checkPublication } from './publication-proof.ts';
import { asResumed, readFollowedOids, unfollowedObjects } from './resumed.ts';
import { checkSchemaCarry } from './schema-carry.ts';
import { checkSourceState } from './source-state.ts';
import { checkTables } from './tables.ts';
import { checkTarget } from './target.ts';

export type CheckOptions = {
  readonly source: Session;
  readonly target: Session;
  readonly selection: Selection;
  /** Whether changes are to be followed after the copy; without it neither slot nor publication is needed. */
  readonly isFollowed: boolean;
  readonly sourceWalBytesMax: number;
  readonly owners?: OwnersPolicy | undefined;
  readonly ddlTriggers?: boolean | undefined;
  readonly ages?: TransactionAges;
};

/** A transaction manager prepares and commits within moments; an older one was left behind. */
const AGES: TransactionAges = { openSMax: 10, preparedSMax: 60 };

/**
 * Find what would keep a shadow from working, or from being exact. Changes nothing on either side
 * (trap 10): what must be proven by doing is rolled back. Cheap enough to run before every clone, a
 * resumed one included.
 *
 * Throws SELECTION_EMPTY for a pattern that matches nothing, and what sessions throw.
 */
export async function runCheck(options: CheckOptions): Promise<CheckResult> {
  const context = await readContext(options);
  const found: Finding[] = [];
  for (const group of GROUPS) found.push(...(await group(context)));
  const unfollowed = unfollowedObjects(context);
  if (canProvePublication(context, found)) {
    const refused = found.filter(({ severity }) => severity === 'refuse');
    const skipped = [...refused.map(({ object }) => object), ...unfollowed];
    found.push(...(await checkPublication(context, new Set(skipped))));
  }
  const findings = found.map((one) => asResumed(one, context, unfollowed));
  return {
    findings: findings.toSorted((a, b) => ORDER[a.severity] - ORDER[b.severity]),
    isRefused: findings.some(({ severity }) => severity === 'refuse'),
    tables: context.relations.tables,
  };
}

const GROUPS: readonly CheckGroup[] = [
  checkAccess,
  checkSourceState,
  checkEncoding,
  checkTables,
  checkDdlTriggers,
  checkFilters,
  checkTarget,
  checkSchemaCarry,
];

const ORDER: Readonly<Record<Severity, number>> = { refuse: 0, warn: 1, info: 2 };

async function readContext(options: CheckOptions): Promise<CheckContext> {
  const { source, target, selection } = options;
  const sourceServer = await readServer(source);
  const relations = await readRelations(source, selection);
  const targetServer = await readServer(target);
  const shadows = await readOwnShadows(target, sourceServer, selection);
  const owners = options.owners ?? 'keep';
  return { ages: AGES, ...options, owners, sourceServer, targetServer, relations, ...shadows };
}

/** The shadow of exactly this dataset that the target has already: its tables are no obstacle to itself. */
async function readOwnShadows(
  target: Session,
  sourceServer: Server,
  selection: Selection,
): Promise<Pick<CheckContext, 'resumedShadowId' | 'followedOids' | 'otherShadowId'>> {
  const none = { resumedShadowId: undefined, followedOids: undefined, otherShadowId: undefined };
  const [ledger] = await target.query(`SELECT to_regclass('understudy.shadow') AS shadow`);
  if ((ledger?.['shadow'] ?? null) === null || sourceServer.systemId === undefined) return none;
  // Where the role may not ask for the system id here, clone does so over a replication connection.
  const rows = await target.query(
    `SELECT shadow_id, selection = $3::jsonb AS is_same FROM understudy.shadow
      WHERE ($1::text IS NULL OR source_system_id = $1) AND source_database = $2
        AND selection - '{where,excludeColumns}'::text[] = $3::jsonb - '{where,excludeColumns}'::text[]`,
    [sourceServer.systemId ?? null, sourceServer.database.name, JSON.stringify(selection)],
  );
  const same = rows.find((row) => row['is_same'] === 't');
  const resumedShadowId = same?.['shadow_id'] ?? undefined;
  if (resumedShadowId !== undefined) {
    return {
      ...none,
      resumedShadowId,
      followedOids: await readFollowedOids(target, resumedShadowId),
    };
  }
  return { ...none, otherShadowId: rows[0]?.['shadow_id'] ?? undefined };
}

/** Where these are missing the proof would only say it again. */
const PROOF_NEEDS: ReadonlySet<string> = new Set([
  'publication-privilege',
  'source-standby',
  'source-read-only',
  'source-version',
]);

function canProvePublication({ isFollowed }: CheckContext, findings: readonly Finding[]): boolean {
  return isFollowed && !findings.some(({ id }) => PROOF_NEEDS.has(id));
}
