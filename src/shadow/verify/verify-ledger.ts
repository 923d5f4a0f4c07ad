import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import type { ChunkDigest } from './compare-chunks.ts';

/** What the ledger says of tables (by the source's OID) at a moment: read it on a session that is in it. */
export type Marks = {
  /** By chunk, the position of the newest change, as the row has it. */
  readonly chunks: ReadonlyMap<number, ReadonlyMap<bigint, string>>;
  /** Tables that were truncated. */
  readonly tables: ReadonlyMap<number, string>;
};

export const NO_MARKS: Marks = { chunks: new Map(), tables: new Map() };

export async function readMarks(target: Session, shadowId: string): Promise<Marks> {
  const rows = await target.query(
    'SELECT source_oid, chunk, lsn FROM understudy.dirty_chunk WHERE shadow_id = $1 ORDER BY 1, 2',
    [shadowId],
  );
  const chunks = new Map<number, Map<bigint, string>>();
  for (const row of rows) {
    const oid = Number(row['source_oid']);
    const marks = chunks.get(oid) ?? new Map<bigint, string>();
    chunks.set(oid, marks.set(BigInt(row['chunk'] ?? '0'), row['lsn'] ?? ''));
  }
  const tables = await target.query(
    'SELECT source_oid, lsn FROM understudy.dirty_table WHERE shadow_id = $1',
    [shadowId],
  );
  return {
    chunks,
    tables: new Map(tables.map((row) => [Number(row['source_oid']), row['lsn'] ?? ''])),
  };
}

/** How many chunks of each table the ledger knows; a table that was never verified is missing. */
export async function readVerifiedChunks(
  target: Session,
  shadowId: string,
): Promise<ReadonlyMap<number, number>> {
  const rows = await target.query(
    'SELECT source_oid, count(*) AS chunks FROM understudy.chunk WHERE shadow_id = $1 GROUP BY 1',
    [shadowId],
  );
  return new Map(rows.map((row) => [Number(row['source_oid']), Number(row['chunks'])]));
}

/** Why a table of the dataset is not in sync with its source, by design (trap 19). */
export type Unsynced = 'stopped' | 'in a lane' | 'not copied';

/** By OID, those that are not. */
export async function readUnsynced(
  target: Session,
  shadowId: string,
): Promise<ReadonlyMap<number, Unsynced>> {
  const rows = await target.query(
    `SELECT source_oid, state, is_in_lane FROM understudy.relation WHERE shadow_id = $1 AND state <> 'copied'`,
    [shadowId],
  );
  return new Map(
    rows.map((row) => [
      Number(row['source_oid']),
      row['state'] === 'stopped'
        ? 'stopped'
        : row['is_in_lane'] === 't'
          ? 'in a lane'
          : 'not copied',
    ]),
  );
}

export async function startVerification(
  target: Session,
  shadowId: string,
  scope: 'full' | 'incremental',
): Promise<string> {
  const [row] = await target.query(
    `INSERT INTO understudy.verification (shadow_id, scope, started_at)
     VALUES ($1, $2, clock_timestamp()) RETURNING verification_id`,
    [shadowId, scope],
  );
  return row?.['verification_id'] ?? '';
}

export async function finishVerification(
  target: Session,
  verificationId: string,
  outcome: {
    readonly lsn: Lsn | undefined;
    readonly tables: number;
    readonly chunksRead: number;
    readonly rows: number;
    readonly differences: number;
    readonly unverified: readonly string[];
  },
): Promise<void> {
  await target.execute(
    `UPDATE understudy.verification
        SET finished_at = clock_timestamp(), fence_lsn = $2, tables = $3, chunks_read = $4,
            rows_read = $5, differences = $6, unverified = $7::text[]
      WHERE verification_id = $1`,
    [
      verificationId,
      outcome.lsn === undefined ? null : formatLsn(outcome.lsn),
      outcome.tables,
      outcome.chunksRead,
      outcome.rows,
      outcome.differences,
      outcome.unverified,
    ],
  );
}

/** What a comparison at `lsn` found of one table. */
export type TableVerified = {
  readonly shadowId: string;
  readonly oid: number;
  readonly lsn: Lsn;
  /** The chunks that were read; undefined for all of them. */
  readonly chunks: readonly bigint[] | undefined;
  readonly same: readonly ChunkDigest[];
  readonly different: readonly bigint[];
  readonly marks: Marks;
};

const BATCH_CHUNKS = 10_000;

/**
 * Write down what is verified now, and take away the marks that this answers, in one transaction. A mark
 * goes only if it is still the one that was seen at the fence: a newer change has another position. Chunks
 * that differ become dirty, so that every later verification reads them again.
 */
export async function recordTable(target: Session, verified: TableVerified): Promise<void> {
  const { shadowId, oid, chunks } = verified;
  // First and by itself: it may wait for the applier, and must not hold anything meanwhile.
  await markDirty(target, { ...verified, chunks: verified.different });
  await target.transaction(async () => {
    await target.execute(
      `DELETE FROM understudy.chunk WHERE shadow_id = $1 AND source_oid = $2
          AND ($3::int8[] IS NULL OR chunk = ANY ($3::int8[]))`,
      [shadowId, oid, chunks === undefined ? null : chunks.map(String)],
    );
    for (let at = 0; at < verified.same.length; at += BATCH_CHUNKS) {
      await insertChunks(target, verified, verified.same.slice(at, at + BATCH_CHUNKS));
    }
    await removeMarks(target, verified);
  });
}

async function insertChunks(
  target: Session,
  { shadowId, oid, lsn }: TableVerified,
  digests: readonly ChunkDigest[],
): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.chunk (shadow_id, source_oid, verified_lsn, chunk, rows, hash_xor, hash_sum)
     SELECT $1, $2, $3, * FROM unnest($4::int8[], $5::int8[], $6::int8[], $7::numeric[])`,
    [
      shadowId,
      oid,
      formatLsn(lsn),
      digests.map(({ chunk }) => String(chunk)),
      digests.map(({ rows }) => rows),
      digests.map(({ hashXor }) => hashXor),
      digests.map(({ hashSum }) => hashSum),
    ],
  );
}

/** Never waits for the applier, which could wait for us: a mark that it holds is about to be newer anyway. */
async function removeMarks(target: Session, verified: TableVerified): Promise<void> {
  const { shadowId, oid, marks, chunks } = verified;
  const read = chunks === undefined ? undefined : new Set(chunks);
  const different = new Set(verified.different);
  const seen = [...(marks.chunks.get(oid) ?? [])].filter(
    ([chunk]) => (read?.has(chunk) ?? true) && !different.has(chunk),
  );
  await target.execute(
    `DELETE FROM understudy.dirty_chunk WHERE ctid = ANY (ARRAY(
       SELECT d.ctid FROM understudy.dirty_chunk d
         JOIN unnest($3::int8[], $4::pg_lsn[]) AS s (chunk, lsn) ON s.chunk = d.chunk AND s.lsn = d.lsn
        WHERE d.shadow_id = $1 AND d.source_oid = $2 FOR UPDATE OF d SKIP LOCKED))`,
    [shadowId, oid, seen.map(([chunk]) => String(chunk)), seen.map(([, lsn]) => lsn)],
  );
  const truncated = marks.tables.get(oid);
  if (truncated === undefined || chunks !== undefined) return;
  await target.execute(
    `DELETE FROM understudy.dirty_table WHERE ctid = ANY (ARRAY(
       SELECT d.ctid FROM understudy.dirty_table d
        WHERE d.shadow_id = $1 AND d.source_oid = $2 AND d.lsn = $3::pg_lsn FOR UPDATE SKIP LOCKED))`,
    [shadowId, oid, truncated],
  );
}

/** Have every later verification read these chunks again. */
export async function markDirty(
  target: Session,
  marked: {
    readonly shadowId: string;
    readonly oid: number;
    readonly lsn: Lsn;
    readonly chunks: readonly bigint[];
  },
): Promise<void> {
  if (marked.chunks.length === 0) return;
  await target.execute(
    `INSERT INTO understudy.dirty_chunk AS d (shadow_id, source_oid, lsn, chunk)
     SELECT $1, $2, $3, chunk FROM unnest($4::int8[]) AS c (chunk) ORDER BY chunk
     ON CONFLICT (shadow_id, source_oid, chunk) DO NOTHING`,
    [marked.shadowId, marked.oid, formatLsn(marked.lsn), marked.chunks.map(String)],
  );
}
