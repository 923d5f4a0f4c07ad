import { quoteLiteral } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';

import { bytesOf, PIECE_BYTES, readHeads, readOids, readPiece } from './read-objects.ts';

/**
 * Make these objects of the target what the source has at this moment. `pair` reads the moment,
 * `target` writes in a transaction on the same snapshot. Returns how many were written or removed.
 */
export async function mendLargeObjects(
  pair: { readonly source: Session; readonly target: Session },
  target: WireConnection,
  oids: readonly number[],
): Promise<number> {
  let mended = 0;
  for (const oid of oids) {
    const [ours] = await readHeads(pair.source, oid - 1);
    const isThere = (await readOids(pair.target, oid - 1, oid)).length > 0;
    if (ours?.oid !== oid) {
      if (!isThere) continue;
      await target.query(`SELECT pg_catalog.lo_unlink(${oid})`);
      mended += 1;
      continue;
    }
    if (ours.head === undefined) continue;
    await target.query(isThere ? emptied(oid) : `SELECT pg_catalog.lo_create(${oid})`);
    await write(pair.source, target, oid);
    const comment = ours.comment === undefined ? 'NULL' : quoteLiteral(ours.comment);
    await target.query(`COMMENT ON LARGE OBJECT ${oid} IS ${comment}`);
    mended += 1;
  }
  return mended;
}

/** Not removed and made again: that would lose its owner and grants, and lock it until the commit. */
function emptied(oid: number): string {
  return `SELECT pg_catalog.lo_truncate64(f.fd, 0), pg_catalog.lo_close(f.fd)
            FROM (SELECT pg_catalog.lo_open(${oid}, 393216) AS fd OFFSET 0) f`;
}

async function write(source: Session, target: WireConnection, oid: number): Promise<void> {
  for (let offset = 0; ;) {
    const piece = await readPiece(source, oid, offset);
    const length = bytesOf(piece);
    if (length > 0) {
      await target.query(`SELECT pg_catalog.lo_put(${oid}, ${offset}, '${piece}'::bytea)`);
    }
    if (length < PIECE_BYTES) return;
    offset += length;
  }
}
