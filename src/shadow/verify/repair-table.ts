import { copiedColumns, quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import type { WireConnection, WireResult } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { pumpCopy } from '#src/shadow/copy/copy-pump.ts';
import { rowsOfCommandTag } from '#src/wire/postgres/backend.ts';
import { copyDone } from '#src/wire/postgres/frontend.ts';

import { compareRows } from './compare-rows.ts';
import { withLock } from './compare-table.ts';
import type { TableComparison } from './comparison.ts';
import type { Pair } from './pair.ts';

/** Connections that write and read rows verbatim, in transactions on the same moment as the pair's. */
export type RepairWires = { readonly source: WireConnection; readonly target: WireConnection };

const BATCH_ROWS = 2_000;

/**
 * Make the rows of `comparison.chunks` on the target those of the source, in the target's transaction.
 *
 * Rows are named by where they are in the moment: keys would need operators, which a type may have in
 * any schema. All that must go goes first, since a value of a unique column may have moved from one row to
 * another. What comes is COPY text, verbatim, without generated columns.
 *
 * Returns the rows that went or came; undefined when the table was rewritten since the moment.
 */
export async function repairTable(
  pair: Pair,
  wires: RepairWires,
  comparison: TableComparison,
): Promise<number | undefined> {
  const { table } = comparison;
  return withLock(pair, table, async () => {
    const stale = new RowPlaces();
    const fresh = new RowPlaces();
    let rows = 0;
    for await (const row of compareRows(pair, comparison)) {
      rows += 1;
      if (row.kind !== 'missing') stale.add(row.target.ctid);
      if (row.kind !== 'extra') fresh.add(row.source.ctid);
    }
    for (const places of stale.batches(BATCH_ROWS)) await remove(wires.target, table, places);
    for (const places of fresh.batches(BATCH_ROWS)) await bring(wires, table, places);
    return rows;
  });
}

/** Row places (ctid) as numbers: eight bytes each, however many there are. */
class RowPlaces {
  readonly #places: number[] = [];

  add(ctid: string): void {
    const [block, offset] = ctid.slice(1, -1).split(',');
    this.#places.push(Number(block) * 0x1_0000 + Number(offset));
  }

  /** As literals of type tid[]. */
  *batches(rowsMax: number): Generator<{ readonly literal: string; readonly count: number }> {
    for (let at = 0; at < this.#places.length; at += rowsMax) {
      const batch = this.#places.slice(at, at + rowsMax);
      const tids = batch.map((place) => `"(${Math.floor(place / 0x1_0000)},${place % 0x1_0000})"`);
      yield { literal: `'{${tids.join(',')}}'::tid[]`, count: batch.length };
    }
  }
}

type Places = { readonly literal: string; readonly count: number };

async function remove(target: WireConnection, table: Table, places: Places): Promise<void> {
  const results = await target.query(
    `DELETE FROM ONLY ${quoteTable(table)} WHERE ctid = ANY (${places.literal})`,
  );
  expectRows(table, places, rowsOf(results));
}

async function bring(wires: RepairWires, table: Table, places: Places): Promise<void> {
  const { source, target } = wires;
  const columns = copiedColumns(table)
    .map(({ name }) => quoteIdentifier(name))
    .join(', ');
  await target.beginCopy(
    `COPY ${quoteTable(table)} ${columns === '' ? '' : `(${columns}) `}FROM STDIN`,
  );
  await source.beginCopy(
    `COPY (SELECT ${columns} FROM ONLY ${quoteTable(table)}
            WHERE ctid = ANY (${places.literal})) TO STDOUT`,
  );
  // Read at once: a target that refuses a row stops the source, which else would wait for ever.
  let refusal: unknown;
  const stored = target.readUntilReady();
  stored.catch((error: unknown) => {
    refusal = error;
    source.destroy();
  });
  try {
    await pumpCopy(wires, () => undefined);
    await source.readUntilReady();
    await target.write(copyDone());
    expectRows(table, places, rowsOf(await stored));
  } catch (error) {
    target.destroy();
    throw refusal ?? error;
  }
}

function expectRows(table: Table, places: Places, rows: number): void {
  if (rows === places.count) return;
  throw new OperatorError(
    'COPY_MISMATCH',
    `${table.schema}.${table.name}: ${rows} of ${places.count} rows were repaired`,
  );
}

function rowsOf(results: readonly WireResult[]): number {
  return rowsOfCommandTag(results.at(-1)?.commandTag ?? '');
}
