import type { Lsn } from '#src/core/lsn.ts';
import {
  compareShapes,
  DETACHED,
  describeChanges,
  DROPPED,
  REPLACED,
  rewriteChange,
  type SchemaChange,
  withoutColumns,
  worstVerdict,
} from '#src/core/schema-change.ts';
import type { RelationShape } from '#src/core/schema-shape.ts';
import { quoteLiteral, quoteTable } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { type DdlMessage, parseDdlMessage } from '#src/shadow/ddl/ddl-message.ts';
import { type LatestVersion, type NewVersion, versionSql } from '#src/shadow/ddl/version-ledger.ts';

import type { FollowedTable } from './followed-table.ts';
import type { LogicalMessage, MessageEffect, MessageHandler } from './logical-messages.ts';

/**
 * What the main loop does on a message of our event triggers: it compares the tables that a command
 * touched with their newest version on record. A table that cannot go on stops, right before the
 * transaction; every other change is a version, written with the transaction's rows. The second time
 * round the table has stopped, and the same change is a version, too.
 *
 * One handler lives as long as an attempt: what it has taken in and was not committed is forgotten.
 */
export type DdlDeps = {
  readonly shadowId: string;
  readonly latest: ReadonlyMap<number, LatestVersion>;
  /** A table appeared, or a command was not described: the catalog is to be looked at soon. */
  readonly onUnknown: () => void;
  /** To be said once, however often it comes. */
  readonly notice: (text: string) => void;
};

type Described = Exclude<DdlMessage, { readonly event: 'failed' }>;

type Noted = {
  readonly oid: number;
  readonly before: RelationShape;
  readonly after: RelationShape | undefined;
  readonly changes: readonly SchemaChange[];
};

export function ddlHandler(deps: DdlDeps): MessageHandler {
  const versions = new Versions(deps.latest);
  return (message) => {
    const ddl = readDdl(message, deps.shadowId);
    if (ddl === undefined) return undefined;
    if (ddl.event === 'failed') {
      deps.notice(
        `a command on the source (${ddl.tag}) could not be described; the catalog is looked at instead`,
      );
      deps.onUnknown();
      return undefined;
    }
    if (ddl.relations.some((shape) => !versions.knows(shape.oid) || isUnwritable(shape)))
      deps.onUnknown();
    return { statements: effects(deps, versions, message, ddl) };
  };
}

/** What a message says; undefined also for what was rolled back. */
function readDdl(
  { content, abortedXids }: LogicalMessage,
  shadowId: string,
): DdlMessage | undefined {
  const ddl = parseDdlMessage(content, shadowId);
  const wasRolledBack =
    ddl !== undefined && 'xid' in ddl && ddl.xid !== undefined && abortedXids.has(ddl.xid);
  return wasRolledBack ? undefined : ddl;
}

/** Whether production's UPDATE fails while the table is published (trap 7). */
export function isUnwritable(shape: RelationShape): boolean {
  return shape.kind === 'r' && shape.key.length === 0 && shape.identity !== 'f';
}

/** Shapes by source OID, as of the messages that were taken in. */
class Versions {
  readonly #latest: Map<number, LatestVersion>;
  /** The last command that left a version, so that its second message does not leave another. */
  readonly #noted = new Map<number, string>();

  constructor(latest: ReadonlyMap<number, LatestVersion>) {
    this.#latest = new Map(latest);
  }

  knows(oid: number): boolean {
    return this.#latest.has(oid);
  }

  /** The shape to compare with; undefined when a transaction that commits there is in it already. */
  shapeBefore(oid: number, commitLsn: Lsn): RelationShape | undefined {
    const version = this.#latest.get(oid);
    return version === undefined || commitLsn < version.lsn ? undefined : version.shape;
  }

  /** The partitions on record that a partitioned table does not have any more. */
  detached(parent: RelationShape, commitLsn: Lsn): readonly RelationShape[] {
    const partitions = new Set(parent.partitions);
    return [...this.#latest.keys()].flatMap((oid) => {
      const shape = this.shapeBefore(oid, commitLsn);
      return shape?.partitionOf === parent.oid && !partitions.has(oid) ? [shape] : [];
    });
  }

  /** Whether this is the first that is heard of the command. */
  take(version: NewVersion): boolean {
    const command = `${version.lsn} ${version.tag}`;
    const isNew = this.#noted.get(version.sourceOid) !== command;
    this.#noted.set(version.sourceOid, command);
    this.#latest.set(version.sourceOid, version);
    return isNew;
  }
}

function effects(
  deps: DdlDeps,
  versions: Versions,
  { commitLsn, tables }: LogicalMessage,
  ddl: Described,
): readonly string[] {
  const noted = noteChanges(versions, { commitLsn, tables }, ddl);
  const stopping = noted.find(
    ({ oid, changes }) =>
      worstVerdict(changes) !== 'goes on' && tables.get(oid)?.isStopped === false,
  );
  if (stopping !== undefined) throw tableChanged(stopping);
  return noted.flatMap((one) => {
    const version = newVersion(one, commitLsn, ddl);
    const isNew = versions.take(version);
    if (one.changes.length === 0 && !isNew) return [];
    for (const { text, verdict } of one.changes) {
      if (verdict === 'goes on') deps.notice(`table ${quoteTable(one.before)}: ${text}`);
    }
    const recorded = versionSql(deps.shadowId, version);
    return version.verdict === 'reseed'
      ? [recorded, waitsForReseedSql(deps.shadowId, one.oid)]
      : [recorded];
  });
}

function noteChanges(
  versions: Versions,
  { commitLsn, tables }: Pick<LogicalMessage, 'commitLsn' | 'tables'>,
  ddl: Described,
): readonly Noted[] {
  const noted = new Map<number, Noted>();
  for (const after of ddl.relations) {
    for (const before of versions.detached(after, commitLsn)) {
      const alone = { ...before, partitionOf: null };
      noted.set(before.oid, { oid: before.oid, before, after: alone, changes: [DETACHED] });
    }
  }
  for (const after of ddl.relations) {
    const before = versions.shapeBefore(after.oid, commitLsn);
    if (before === undefined) continue;
    const excluded = excludedColumns(before, tables.get(after.oid));
    const changes = changesOf(
      withoutColumns(before, excluded),
      withoutColumns(after, excluded),
      ddl,
    );
    // What a look saw may have come by a message of a trigger before.
    if (ddl.event === 'look' && changes.length === 0) continue;
    noted.set(after.oid, { oid: after.oid, before, after, changes });
  }
  for (const { oid, isReplaced } of ddl.dropped) {
    const before = versions.shapeBefore(oid, commitLsn);
    if (before !== undefined) {
      noted.set(oid, {
        oid,
        before,
        after: undefined,
        changes: [isReplaced === true ? REPLACED : DROPPED],
      });
    }
  }
  for (const { table } of ddl.objects) {
    const before = versions.shapeBefore(table, commitLsn);
    if (before === undefined || noted.has(table)) continue;
    noted.set(table, { oid: table, before, after: before, changes: [] });
  }
  return [...noted.values()];
}

/**
 * Columns that the shadow leaves out: whatever becomes of them, neither side notices. Of a stopped table
 * it cannot be told, and need not be.
 */
function excludedColumns(
  before: RelationShape,
  table: FollowedTable | undefined,
): ReadonlySet<number> {
  if (table === undefined || table.isStopped || table.record.published === '') return new Set();
  const attnums = new Set(table.record.columns.map(({ attnum }) => attnum));
  return new Set(
    before.columns
      .filter(({ attnum, generated }) => generated === '' && !attnums.has(attnum))
      .map(({ attnum }) => attnum),
  );
}

function changesOf(
  before: RelationShape,
  after: RelationShape,
  { event, rewritten }: Described,
): readonly SchemaChange[] {
  const changes = compareShapes(before, after);
  if (rewritten?.oid !== after.oid) return changes;
  // A look sees another file only; alone, or beside what is harmless, that is no rewrite (VACUUM FULL).
  if (event === 'look' && worstVerdict(changes) === 'goes on') return changes;
  return [...changes, rewriteChange(rewritten.reason)];
}

function newVersion({ oid, after, changes }: Noted, commitLsn: Lsn, ddl: Described): NewVersion {
  const objects = ddl.objects.filter(({ table }) => table === oid);
  const named = objects.map(({ type, identity }) => `${type} ${identity}`).join(', ');
  return {
    sourceOid: oid,
    lsn: commitLsn,
    isExact: ddl.event !== 'look',
    tag: ddl.tag,
    change:
      changes.length > 0
        ? describeChanges(changes)
        : `${named === '' ? '' : `${named}: `}nothing that its rows depend on`,
    verdict: worstVerdict(changes),
    shape: after,
  };
}

function tableChanged({ oid, before, changes }: Noted): OperatorError {
  return new OperatorError(
    'TABLE_CHANGED',
    `table ${quoteTable(before)} was changed on the source: ${describeChanges(changes)}`,
    { detail: { relation: oid, waitsFor: worstVerdict(changes) } },
  );
}

/** What was to be resumed was rewritten meanwhile: the stream does not lead there any more. */
function waitsForReseedSql(shadowId: string, oid: number): string {
  return `UPDATE understudy.relation SET waits_for = 'reseed', is_spooled = false, spool_bytes = 0
           WHERE shadow_id = ${quoteLiteral(shadowId)} AND source_oid = ${oid}
             AND state = 'stopped' AND waits_for = 'resume'`;
}

/**
 * What a lane does on a message of our event triggers. Its table was adapted by hand to what it became,
 * and each shape in the stream is checked against the target; but rows that were changed by other means,
 * and the end of the table, are in no shape. Throws TABLE_CHANGED, with `waitsFor` in `detail`.
 */
export function laneDdlHandler(shadowId: string): MessageHandler {
  return (message): MessageEffect | undefined => {
    const { tables } = message;
    const ddl = readDdl(message, shadowId);
    if (ddl === undefined || ddl.event === 'failed') return undefined;
    const { rewritten, dropped } = ddl;
    const rewrite =
      rewritten === undefined || rewritten === null ? undefined : rewriteChange(rewritten.reason);
    for (const table of tables.values()) {
      if (table.isStopped) continue;
      const changes = [
        ...(rewrite !== undefined && rewritten?.oid === table.oid ? [rewrite] : []),
        ...(dropped.some(({ oid }) => oid === table.oid) ? [DROPPED] : []),
      ].filter(({ verdict }) => verdict !== 'goes on');
      if (changes.length === 0) continue;
      throw new OperatorError(
        'TABLE_CHANGED',
        `table ${quoteTable(table.name)} was changed on the source: ${describeChanges(changes)}`,
        { detail: { relation: table.oid, waitsFor: worstVerdict(changes) } },
      );
    }
    return undefined;
  };
}
