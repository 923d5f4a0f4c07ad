import { conjunction } from '#src/core/row-filter.ts';
import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import { readCursor } from '#src/db/postgres/connection/cursor.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { columnHashExpression, rowHashExpression } from '#src/db/postgres/row-hash/row-hash.ts';

import { Ascending } from './compare-chunks.ts';
import { chunkConditions, type TableComparison } from './comparison.ts';
import type { Pair } from './pair.ts';

/**
 * The rows in which two sides differ. Both are read in the order of (hash of the key, hash of the row)
 * and merged, so memory does not grow with the number of rows, and no text is ever ordered: collations
 * differ, hashes do not (trap 23). A table without a key is a multiset: the row is its own key.
 */
export type RowDifference =
  | { readonly kind: 'missing'; readonly source: RowPlace }
  | { readonly kind: 'extra'; readonly target: RowPlace }
  | { readonly kind: 'changed'; readonly source: RowPlace; readonly target: RowPlace };

/** Where a row is in its moment. Nothing can move it there as long as the moment's transaction lives. */
export type RowPlace = { readonly ctid: string; readonly key: readonly (string | null)[] };

type HashedRow = RowPlace & { readonly keyHash: bigint; readonly rowHash: bigint };

const BATCH_ROWS = 5_000;

/** Compare the rows of `comparison.chunks`; both sessions must be in the moment. */
export async function* compareRows(
  pair: Pair,
  comparison: TableComparison,
): AsyncGenerator<RowDifference> {
  for (const condition of chunkConditions(comparison.chunking, 't', comparison.chunks)) {
    const ours = rowsSql(comparison, conjunction(condition, comparison.table.rowFilter));
    const theirs = rowsSql(comparison, condition);
    const keyColumns = comparison.table.key.length;
    await using source = new Ascending(readRows(pair.source, ours, keyColumns));
    await using target = new Ascending(readRows(pair.target, theirs, keyColumns));
    yield* mergeRows(source, target);
  }
}

async function* mergeRows(
  source: Ascending<HashedRow>,
  target: Ascending<HashedRow>,
): AsyncGenerator<RowDifference> {
  await Promise.all([source.advance(), target.advance()]);
  // What is left over of one key hash: a changed row leaves one on each side.
  let left: { keyHash: bigint; source: HashedRow[]; target: HashedRow[] } | undefined;
  for (;;) {
    const [ours, theirs] = [source.current, target.current];
    const order = compareHashes(ours, theirs);
    if (order === 0) {
      if (ours === undefined) break;
      await Promise.all([source.advance(), target.advance()]);
      continue;
    }
    const row = order < 0 ? ours : theirs;
    if (row === undefined) break;
    if (left !== undefined && (left.keyHash !== row.keyHash || row.key.length === 0)) {
      yield* matchKeys(left.source, left.target);
      left = undefined;
    }
    left ??= { keyHash: row.keyHash, source: [], target: [] };
    (order < 0 ? left.source : left.target).push(row);
    await (order < 0 ? source.advance() : target.advance());
  }
  if (left !== undefined) yield* matchKeys(left.source, left.target);
}

/** The end sorts last. */
function compareHashes(a: HashedRow | undefined, b: HashedRow | undefined): number {
  if (a === undefined || b === undefined) return Number(a === undefined) - Number(b === undefined);
  if (a.keyHash !== b.keyHash) return a.keyHash < b.keyHash ? -1 : 1;
  if (a.rowHash !== b.rowHash) return a.rowHash < b.rowHash ? -1 : 1;
  return 0;
}

function* matchKeys(
  ours: readonly HashedRow[],
  theirs: readonly HashedRow[],
): Generator<RowDifference> {
  const unmatched = [...theirs];
  for (const source of ours) {
    const index = unmatched.findIndex(
      ({ key }) => key.length > 0 && key.every((text, at) => text === source.key[at]),
    );
    const [target] = index < 0 ? [] : unmatched.splice(index, 1);
    if (target === undefined) yield { kind: 'missing', source };
    else yield { kind: 'changed', source, target };
  }
  for (const target of unmatched) yield { kind: 'extra', target };
}

function rowsSql({ table, hash }: TableComparison, condition: string): string {
  const rowHash = rowHashExpression(hash.compared, 't');
  const keyForms = hash.compared.filter(({ column }) => table.key.includes(column));
  const keyHash = table.key.length === 0 ? '0::int8' : rowHashExpression(keyForms, 't');
  const keys = table.key.map((name, index) => `, concat(t.${quoteIdentifier(name)}) AS k${index}`);
  return `SELECT ${keyHash} AS key_hash, ${rowHash} AS row_hash, t.ctid${keys.join('')}
     FROM ONLY ${quoteTable(table)} AS t WHERE ${condition} ORDER BY 1, 2`;
}

async function* readRows(
  session: Session,
  sql: string,
  keyColumns: number,
): AsyncGenerator<HashedRow> {
  const names = Array.from({ length: keyColumns }, (_, index) => `k${index}`);
  for await (const rows of readCursor(session, { name: 'hashed', sql, batchRows: BATCH_ROWS })) {
    for (const row of rows) {
      yield {
        keyHash: BigInt(row['key_hash'] ?? '0'),
        rowHash: BigInt(row['row_hash'] ?? '0'),
        ctid: row['ctid'] ?? '',
        key: names.map((name) => row[name] ?? null),
      };
    }
  }
}

/** The columns in which a changed row differs. */
export async function changedColumns(
  pair: Pair,
  comparison: TableComparison,
  row: Extract<RowDifference, { kind: 'changed' }>,
): Promise<readonly string[]> {
  const [ours, theirs] = await Promise.all([
    columnHashes(pair.source, comparison, row.source.ctid),
    columnHashes(pair.target, comparison, row.target.ctid),
  ]);
  return comparison.hash.compared.flatMap(({ column }, index) =>
    ours[index] === theirs[index] ? [] : [column],
  );
}

/** As an array: a result holds at most 1,664 columns and names could collide. */
async function columnHashes(
  session: Session,
  { table, hash }: TableComparison,
  ctid: string,
): Promise<readonly string[]> {
  const hashes = hash.compared.map((form) => columnHashExpression(form, 't'));
  const [row]: readonly (Row | undefined)[] = await session.query(
    `SELECT array_to_string(ARRAY[${hashes.join(', ')}]::int8[], ',') AS hashes
       FROM ONLY ${quoteTable(table)} AS t WHERE t.ctid = $1::tid`,
    [ctid],
  );
  return row?.['hashes']?.split(',') ?? [];
}
