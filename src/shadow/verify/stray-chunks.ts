import type { Session } from '#src/db/postgres/connection/session.ts';

import { type ChunkDigest, digestSql, isSame, readDigests } from './compare-chunks.ts';
import type { TableComparison } from './comparison.ts';

/**
 * Chunks that are not on the target what the last verification found them to be, although the stream
 * has changed nothing in them: somebody else wrote there (trap 24). The whole table is read on the
 * target, which has time, and nothing on the source, which has not.
 */
export async function findStrayChunks(
  target: Session,
  shadowId: string,
  comparison: TableComparison,
): Promise<readonly bigint[]> {
  const dirty = new Set(comparison.chunks);
  const known = await readKnown(target, shadowId, comparison.table.oid);
  const stray: bigint[] = [];
  for await (const digest of readDigests(target, digestSql(comparison, 'true'))) {
    const verified = known.get(digest.chunk);
    known.delete(digest.chunk);
    if (dirty.has(digest.chunk)) continue;
    if (verified === undefined || !isSame(verified, digest)) stray.push(digest.chunk);
  }
  // What is left has no row on the target any more.
  for (const [chunk, { rows }] of known) if (rows !== '0' && !dirty.has(chunk)) stray.push(chunk);
  return stray;
}

async function readKnown(
  target: Session,
  shadowId: string,
  sourceOid: number,
): Promise<Map<bigint, ChunkDigest>> {
  const rows = await target.query(
    `SELECT chunk, rows, hash_xor, hash_sum FROM understudy.chunk
      WHERE shadow_id = $1 AND source_oid = $2`,
    [shadowId, sourceOid],
  );
  return new Map(
    rows.map((row) => {
      const chunk = BigInt(row['chunk'] ?? '0');
      const digest = {
        chunk,
        rows: row['rows'] ?? '',
        hashXor: row['hash_xor'] ?? '',
        hashSum: row['hash_sum'] ?? '',
      };
      return [chunk, digest];
    }),
  );
}
