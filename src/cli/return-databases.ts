import type { Endpoint } from '#src/core/endpoint.ts';
import { selectRelations } from '#src/core/selection-pattern.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import type { TableName } from '#src/core/table.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { identifySource } from '#src/shadow/clone/register.ts';
import { readLatestVersions } from '#src/shadow/ddl/version-ledger.ts';
import { readRelationRecords, readShadows, type ShadowRecord } from '#src/shadow/ledger.ts';
import { returnTables } from '#src/shadow/return-tables.ts';

import type { CommandDeps } from './command-deps.ts';
import { whileFollowed } from './verify-shadow.ts';

export type ReturnKind = 'resume' | 'reseed';

export type ReturnSettings = {
  readonly source: Endpoint;
  readonly target: Endpoint;
  /** Patterns; each must match. */
  readonly tables: readonly string[];
  readonly jobs: number;
};

/**
 * `resume` and `reseed`: have the tables brought back by whoever follows the shadow, or by this process if
 * nobody does. Gives them when all of them follow.
 *
 * Throws SELECTION_EMPTY for a pattern without a table, SHADOW_MISSING, what `whileFollowed` and
 * `returnTables` throw.
 */
export async function returnDatabases(
  deps: CommandDeps,
  kind: ReturnKind,
  settings: ReturnSettings,
): Promise<readonly TableName[]> {
  if (settings.tables.length === 0) {
    throw new OperatorError('CONFIG_INVALID', `${kind} needs --table: which tables are meant`);
  }
  const applicationName = `understudy ${kind}`;
  const { shadow, tables } = await findTables(settings, applicationName);
  const { selection } = shadow;
  await whileFollowed(deps, { ...settings, selection, isFull: false }, async (followed) => {
    await using target = await openSession(settings.target, { applicationName });
    await returnTables({ ...followed, target, shadowId: shadow.shadowId }, kind, tables);
  });
  return tables;
}

/** The shadow of this source that has tables which the patterns mean, and those tables. */
async function findTables(
  settings: ReturnSettings,
  applicationName: string,
): Promise<{ readonly shadow: ShadowRecord; readonly tables: readonly TableName[] }> {
  await using source = await openSession(settings.source, { applicationName });
  await using target = await openSession(settings.target, { applicationName });
  const { systemId, database } = await identifySource(source);
  const shadows = (await readShadows(target)).filter(
    (one) => one.sourceSystemId === systemId && one.sourceDatabase === database && one.isFollowed,
  );
  const found: { shadow: ShadowRecord; tables: readonly TableName[] }[] = [];
  let nothing: Error = new OperatorError(
    'SHADOW_MISSING',
    'the target has no followed shadow of this source',
  );
  for (const shadow of shadows) {
    try {
      found.push({
        shadow,
        tables: await matchingTables(target, shadow.shadowId, settings.tables),
      });
    } catch (error) {
      if (!(error instanceof OperatorError) || error.code !== 'SELECTION_EMPTY') throw error;
      nothing = error;
    }
  }
  const [only, ...others] = found;
  if (only !== undefined && others.length === 0) return only;
  if (only !== undefined) {
    throw new OperatorError(
      'CONFIG_INVALID',
      `${found.length} shadows of the target have such a table`,
    );
  }
  throw nothing;
}

/** Of several, those that have stopped; if none has, all, so that the refusal says what they are. */
async function matchingTables(
  target: Session,
  shadowId: string,
  patterns: readonly string[],
): Promise<readonly TableName[]> {
  const versions = await readLatestVersions(target, shadowId);
  const records = (await readRelationRecords(target, shadowId)).map((record) => {
    // Also by the name that it has got since.
    const shape = versions.get(record.sourceOid)?.shape;
    return { ...record, ancestors: shape === undefined ? [] : [shape] };
  });
  const matching = selectRelations({ ...EVERYTHING, tables: patterns }, records);
  const stopped = matching.filter(({ state }) => state === 'stopped');
  const chosen = stopped.length > 0 ? stopped : matching;
  const names = new Map(
    chosen.map(({ schema, name }) => [JSON.stringify([schema, name]), { schema, name }]),
  );
  return [...names.values()];
}
