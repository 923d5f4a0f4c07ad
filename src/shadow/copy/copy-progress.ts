import type { Report } from '#src/core/progress.ts';
import type { Table } from '#src/core/table.ts';
import type { Clock } from '#src/lib/clock.ts';

const REPORT_EVERY_MS = 200;

type Tally = {
  readonly table: Table;
  sourceBytes: number;
  /** Source bytes of the parts that are copied. */
  sourceBytesCopied: number;
  rows: number;
  bytes: number;
  isCopied: boolean;
  isDirty: boolean;
};

/** A part on its way. Its counts are shown at once and taken back when it fails. */
export type PartProgress = {
  /** So far, not since the last call. */
  readonly advance: (rows: number, bytes: number) => void;
  readonly commit: (rows: number, bytes: number) => void;
  readonly discard: () => void;
};

/** Adds up what is copied and reports it a few times a second. */
export type CopyProgress = {
  /** A table begins, again or for the first time, with what is copied of it already. */
  readonly start: (
    table: Table,
    begun: { sourceBytes: number; sourceBytesCopied: number; rows: number; bytes: number },
  ) => void;
  readonly part: (table: Table, sourceBytes: number) => PartProgress;
  readonly finish: (table: Table) => void;
  readonly restart: (table: Table) => void;
  /** Report what is due whatever the time. */
  readonly flush: () => void;
  readonly totals: () => { readonly rows: number; readonly bytes: number };
};

type Flying = { readonly tally: Tally; readonly sourceBytes: number; rows: number; bytes: number };

export function createCopyProgress(deps: {
  readonly report: Report;
  readonly clock: Clock;
}): CopyProgress {
  const tallies = new Map<number, Tally>();
  const flying = new Set<Flying>();
  let parts = 0;
  let reportedAt = 0;

  const tallyOf = (table: Table): Tally => {
    const known = tallies.get(table.oid);
    if (known !== undefined) return known;
    const tally: Tally = {
      table,
      sourceBytes: 0,
      sourceBytesCopied: 0,
      rows: 0,
      bytes: 0,
      isCopied: false,
      isDirty: false,
    };
    tallies.set(table.oid, tally);
    return tally;
  };
  const reportTable = (tally: Tally, state: 'copying' | 'copied' | 'restarted'): void => {
    tally.isDirty = false;
    const ofTable = [...flying].filter((one) => one.tally === tally);
    deps.report({
      type: 'tableProgress',
      table: { schema: tally.table.schema, name: tally.table.name },
      rows: tally.rows + sum(ofTable, 'rows'),
      bytes: tally.bytes + sum(ofTable, 'bytes'),
      rowsEstimate: Math.max(0, tally.table.rowsEstimate),
      state,
    });
  };
  const reportAll = (): void => {
    reportedAt = deps.clock.now();
    for (const tally of new Set([...flying].map((one) => one.tally))) {
      if (tally.isDirty) reportTable(tally, 'copying');
    }
    const all = [...tallies.values()];
    const copying = [...flying];
    deps.report({
      type: 'copyProgress',
      tables: all.length,
      tablesCopied: all.filter((tally) => tally.isCopied).length,
      rows: sum([...all, ...copying], 'rows'),
      bytes: sum([...all, ...copying], 'bytes'),
      heapBytes:
        all.reduce((total, tally) => total + tally.sourceBytesCopied, 0) +
        // What crosses the wire is about as large as what lies on disk; a part is never shown as over.
        copying.reduce((total, one) => total + Math.min(one.bytes, one.sourceBytes), 0),
      heapBytesTotal: all.reduce((total, tally) => total + tally.sourceBytes, 0),
      parts,
    });
  };
  const reportWhenDue = (): void => {
    if (deps.clock.now() - reportedAt >= REPORT_EVERY_MS) reportAll();
  };

  return {
    start: (table, begun) => {
      Object.assign(tallyOf(table), begun, { isCopied: false });
    },
    part: (table, sourceBytes) => {
      const one: Flying = { tally: tallyOf(table), sourceBytes, rows: 0, bytes: 0 };
      flying.add(one);
      return {
        advance: (rows, bytes) => {
          one.rows = rows;
          one.bytes = bytes;
          one.tally.isDirty = true;
          reportWhenDue();
        },
        commit: (rows, bytes) => {
          flying.delete(one);
          one.tally.rows += rows;
          one.tally.bytes += bytes;
          one.tally.sourceBytesCopied += sourceBytes;
          one.tally.isDirty = true;
          parts += 1;
          reportWhenDue();
        },
        discard: () => void flying.delete(one),
      };
    },
    finish: (table) => {
      const tally = tallyOf(table);
      tally.isCopied = true;
      reportTable(tally, 'copied');
    },
    restart: (table) => {
      const tally = tallyOf(table);
      Object.assign(tally, { rows: 0, bytes: 0, sourceBytesCopied: 0 });
      reportTable(tally, 'restarted');
    },
    flush: reportAll,
    totals: () => ({
      rows: sum([...tallies.values()], 'rows'),
      bytes: sum([...tallies.values()], 'bytes'),
    }),
  };
}

function sum(items: readonly { rows: number; bytes: number }[], field: 'rows' | 'bytes'): number {
  return items.reduce((total, item) => total + item[field], 0);
}
