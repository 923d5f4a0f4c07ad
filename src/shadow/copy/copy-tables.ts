import {
  choosePartBytes,
  cutTable,
  type Part,
  partsOf,
  type TableCut,
} from '#src/core/copy-plan.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import type { Table } from '#src/core/table.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';

import {
  readRelations,
  readSnapshots,
  recordCopied,
  type RecordedRelation,
  recordRestart,
  recordStart,
} from './copy-ledger.ts';
import type { CopyProgress } from './copy-progress.ts';
import type { HeldSnapshot } from './generations.ts';
import type { LedgerSession } from './ledger-session.ts';
import type { LiveGenerations } from './live-generations.ts';
import { retryLostConnections, type RetryDeps } from './retry.ts';

/** A table that this run copies. */
export type TableRun = {
  readonly table: Table;
  /** The snapshot that its parts are read from; a newer one after a restart. */
  held: HeldSnapshot;
  restarts: number;
};

/** A table and the parts of it that are missing. */
export type BegunTable = { readonly run: TableRun; readonly parts: readonly Part[] };

export type TablesDeps = RetryDeps & {
  readonly source: Endpoint;
  readonly shadowId: string;
  readonly tables: readonly Table[];
  readonly isFollowed: boolean;
  readonly isInLane?: boolean;
  /** Start every table again, from a new snapshot. */
  readonly mustStartOver: boolean;
  readonly jobs: number;
  readonly partBytes?: number;
  readonly onLedger: LedgerSession['run'];
  readonly generations: LiveGenerations;
  readonly progress: CopyProgress;
  readonly failpoints: Failpoints;
};

type Size = { readonly pages: number; readonly sourceBytes: number };

/**
 * Compare the ledger with what is to be copied and bring every table to a state from which parts can be
 * copied: recorded, on a snapshot that lives. Returns the tables that lack parts.
 */
export async function beginTables(deps: TablesDeps): Promise<readonly BegunTable[]> {
  const { shadowId, generations } = deps;
  const relations = await deps.onLedger(async (target) => readRelations(target, shadowId));
  const known = deps.tables.map((table) => ({ table, relation: relations.get(table.oid) }));
  const unfinished = known.filter(({ relation }) => !isOver(relation));
  if (unfinished.length > 0 && !deps.mustStartOver) {
    const wanted = new Set(unfinished.map(({ relation }) => relation?.generation));
    const newest = Math.max(0, ...[...relations.values()].map((one) => one.generation));
    await generations.adopt(
      ({ generation }) => wanted.has(generation) || (deps.isInLane !== true && generation > newest),
    );
  }
  if (deps.mustStartOver || (!deps.isFollowed && !canShareSnapshot(deps, known))) {
    return beginAllAgain(deps, known);
  }
  for (const { table, relation } of known) {
    if (relation?.state === 'copied') showTable(deps, table, relation);
  }
  const tooOld = await readTooOld(deps);
  const fresh = unfinished.filter(({ relation }) => relation?.cut === undefined);
  const begun: BegunTable[] = await beginFresh(
    deps,
    fresh.map(({ table }) => table),
    tooOld,
  );
  for (const { table, relation } of unfinished) {
    if (relation?.cut === undefined) continue;
    const held = generations.get(relation.generation);
    const next =
      held === undefined
        ? await beginAgain(deps, table, Math.max(tooOld, relation.generation))
        : await goOn(deps, { table, held, restarts: 0 }, relation);
    if (next !== undefined) begun.push(next);
  }
  return begun;
}

/** The newest generation that a table which is bound to none may not have. */
async function readTooOld(deps: TablesDeps): Promise<number> {
  // The clone publishes its tables before it has a slot, thus before any snapshot.
  if (deps.isInLane !== true) return 0;
  const recorded = await deps.onLedger(async (target) => readSnapshots(target, deps.shadowId));
  return Math.max(0, ...recorded.map(({ generation }) => generation));
}

type Known = { readonly table: Table; readonly relation: RecordedRelation | undefined };

/** Copied, also by a lane; or stopped, which is not the copy's to change. */
function isOver(relation: RecordedRelation | undefined): boolean {
  return relation !== undefined && relation.state !== 'pending' && relation.state !== 'copying';
}

/** Whether what is missing can be read from the snapshot that everything else was read from. */
function canShareSnapshot(deps: TablesDeps, known: readonly Known[]): boolean {
  if (known.every(({ relation }) => isOver(relation))) return true;
  const started = known.flatMap(({ relation }) => (relation?.cut ? [relation.generation] : []));
  const [generation] = started;
  if (generation === undefined) return true;
  // The newest is what tables that have not started will get.
  return (
    started.every((other) => other === generation) &&
    deps.generations.get(generation) !== undefined &&
    deps.generations.get(generation) === deps.generations.newest()
  );
}

async function beginAllAgain(
  deps: TablesDeps,
  known: readonly Known[],
): Promise<readonly BegunTable[]> {
  const newest = Math.max(0, ...known.map(({ relation }) => relation?.generation ?? 0));
  const begun: BegunTable[] = [];
  for (const { table } of known) begun.push(await beginAgain(deps, table, newest));
  return begun;
}

/** Empty a table that was rewritten, or whose snapshot is lost, and bind it to a newer one. Returns its parts. */
export async function restartTable(deps: TablesDeps, run: TableRun): Promise<readonly Part[]> {
  const again = await beginAgain(deps, run.table, run.held.generation);
  run.held = again.run.held;
  run.restarts += 1;
  return again.parts;
}

async function beginFresh(
  deps: TablesDeps,
  tables: readonly Table[],
  tooOld: number,
): Promise<BegunTable[]> {
  if (tables.length === 0) return [];
  const sizes = await readSizes(deps, tables);
  const totalBytes = [...sizes.values()].reduce((sum, size) => sum + size.sourceBytes, 0);
  const partBytes = deps.partBytes ?? choosePartBytes(totalBytes, deps.jobs);
  const held = await deps.generations.newerThan(tooOld);
  const started = tables.map((table) => ({
    table,
    cut: cutTable(sizes.get(table.oid) ?? { pages: 0, sourceBytes: 0 }, partBytes),
  }));
  deps.failpoints.hit('copy.beforeStart');
  await deps.onLedger(async (target) => recordStart(target, deps.shadowId, held, started));
  deps.failpoints.hit('copy.afterStart');
  return started.map(({ table, cut }) => begin(deps, { table, held, restarts: 0 }, cut));
}

async function beginAgain(
  deps: TablesDeps,
  table: Table,
  lostGeneration: number,
): Promise<BegunTable> {
  deps.log.info({ table: table.name, generation: lostGeneration }, 'table starts again');
  deps.progress.restart(table);
  const size = (await readSizes(deps, [table])).get(table.oid) ?? { pages: 0, sourceBytes: 0 };
  const partBytes = deps.partBytes ?? choosePartBytes(size.sourceBytes, deps.jobs);
  const cut = cutTable(size, partBytes);
  const held = await deps.generations.newerThan(lostGeneration);
  deps.failpoints.hit('copy.beforeRestart');
  await deps.onLedger(async (target) => recordRestart(target, deps.shadowId, held, { table, cut }));
  deps.failpoints.hit('copy.afterRestart');
  return begin(deps, { table, held, restarts: 0 }, cut);
}

function begin(deps: TablesDeps, run: TableRun, cut: TableCut): BegunTable {
  deps.progress.start(run.table, {
    sourceBytes: cut.sourceBytes,
    sourceBytesCopied: 0,
    rows: 0,
    bytes: 0,
  });
  return { run, parts: partsOf(cut) };
}

/** The parts that an earlier run left to do; undefined when it lacked nothing but the record of being over. */
async function goOn(
  deps: TablesDeps,
  run: TableRun,
  relation: RecordedRelation,
): Promise<BegunTable | undefined> {
  showTable(deps, run.table, relation);
  const parts = relation.cut === undefined ? [] : partsOf(relation.cut);
  const missing = parts.filter((part) => !relation.parts.has(part.number));
  if (missing.length > 0) return { run, parts: missing };
  await deps.onLedger(async (target) =>
    recordCopied(target, deps.shadowId, run.table, run.held.generation),
  );
  deps.progress.finish(run.table);
  return undefined;
}

/** Begin the count with what earlier runs copied. */
function showTable(deps: TablesDeps, table: Table, relation: RecordedRelation): void {
  const copied = [...relation.parts.values()];
  const parts = relation.cut === undefined ? [] : partsOf(relation.cut);
  deps.progress.start(table, {
    sourceBytes: relation.cut?.sourceBytes ?? 0,
    sourceBytesCopied: parts
      .filter((part) => relation.parts.has(part.number))
      .reduce((sum, part) => sum + part.sourceBytes, 0),
    rows: copied.reduce((sum, part) => sum + part.rows, 0),
    bytes: copied.reduce((sum, part) => sum + part.bytes, 0),
  });
  if (relation.state === 'copied') deps.progress.finish(table);
}

/** Sizes now: parts are cut by them, and the last part has no end, so growth is harmless. */
async function readSizes(
  deps: TablesDeps,
  tables: readonly Table[],
): Promise<ReadonlyMap<number, Size>> {
  const rows = await retryLostConnections(deps, async () => {
    await using source = await openSession(deps.source, {
      applicationName: `understudy ${deps.shadowId} copy`,
    });
    // The sizes wait for whoever holds a table exclusively.
    const abort = (): void => void source[Symbol.asyncDispose]();
    deps.signal.addEventListener('abort', abort, { once: true });
    if (deps.signal.aborted) abort();
    try {
      return await source.query(SIZES_SQL, [tables.map((table) => String(table.oid))]);
    } finally {
      deps.signal.removeEventListener('abort', abort);
    }
  });
  return new Map(
    rows.map((row) => [
      Number(row['oid']),
      { pages: Number(row['pages']), sourceBytes: Number(row['bytes']) },
    ]),
  );
}

const SIZES_SQL = `
SELECT c.oid, pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages,
       pg_table_size(c.oid) AS bytes
  FROM pg_class c WHERE c.oid = ANY ($1::oid[])`;
