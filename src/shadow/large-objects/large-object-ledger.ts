import { z } from 'zod';

import type { Session } from '#src/db/postgres/connection/session.ts';

/** The row of understudy.large_objects: how far their copy is, and what the source was like before it. */
export type LargeObjectsRecord = {
  readonly state: 'copying' | 'copied';
  /** Of the source before the copy's snapshot, or before that of a comparison that found no difference. */
  readonly fingerprint: string;
  /** pg_current_snapshot() of the copy; undefined before it begins. */
  readonly snapshot: string | undefined;
  /** Every object up to this OID is there, and of the next one the bytes before the offset. */
  readonly oid: number;
  readonly offset: number;
  /** The copy has begun anew, so what the target has may be of an older snapshot. */
  readonly isAnew: boolean;
  readonly objects: number;
  readonly bytes: number;
  /** Objects that the role may not read on the source. */
  readonly unreadable: number;
  /** When the source was seen to have changed since, if it was. */
  readonly changedAt: string | undefined;
};

/** Begin, before the snapshot of the copy is taken; what an earlier run has begun stays. */
export async function insertLargeObjects(
  target: Session,
  shadowId: string,
  fingerprint: string,
): Promise<void> {
  await target.execute(
    `INSERT INTO understudy.large_objects (shadow_id, fingerprint) VALUES ($1, $2)
     ON CONFLICT (shadow_id) DO NOTHING`,
    [shadowId, fingerprint],
  );
}

export async function readLargeObjects(
  target: Session,
  shadowId: string,
): Promise<LargeObjectsRecord | undefined> {
  const [row] = await target.query('SELECT * FROM understudy.large_objects WHERE shadow_id = $1', [
    shadowId,
  ]);
  if (row === undefined) return undefined;
  return {
    state: z.enum(['copying', 'copied']).parse(row['state']),
    fingerprint: row['fingerprint'] ?? '',
    snapshot: row['snapshot'] ?? undefined,
    oid: Number(row['copied_oid']),
    offset: Number(row['copied_offset']),
    isAnew: row['is_anew'] === 't',
    objects: Number(row['objects']),
    bytes: Number(row['bytes']),
    unreadable: Number(row['unreadable']),
    changedAt: row['changed_at'] ?? undefined,
  };
}

/** Note how far the copy is, in the transaction that wrote it. */
export async function updateLargeObjects(
  target: Session,
  shadowId: string,
  record: Omit<LargeObjectsRecord, 'fingerprint' | 'changedAt'>,
): Promise<void> {
  await target.execute(
    `UPDATE understudy.large_objects
        SET state = $2, snapshot = $3, copied_oid = $4, copied_offset = $5, is_anew = $6, objects = $7,
            bytes = $8, unreadable = $9
      WHERE shadow_id = $1`,
    [
      shadowId,
      record.state,
      record.snapshot ?? null,
      record.oid,
      record.offset,
      record.isAnew,
      record.objects,
      record.bytes,
      record.unreadable,
    ],
  );
}

/** The source has changed since this fingerprint; whether it is still on record, and nobody has noted it. */
export async function noteChange(
  target: Session,
  shadowId: string,
  fingerprint: string,
): Promise<boolean> {
  const touched = await target.execute(
    `UPDATE understudy.large_objects SET changed_at = now()
      WHERE shadow_id = $1 AND fingerprint = $2 AND changed_at IS NULL`,
    [shadowId, fingerprint],
  );
  return touched > 0;
}

/** Both sides were the same at a moment after the fingerprint was read. */
export async function noteSame(
  target: Session,
  shadowId: string,
  fingerprint: string,
): Promise<void> {
  await target.execute(
    `UPDATE understudy.large_objects SET fingerprint = $2, changed_at = NULL WHERE shadow_id = $1`,
    [shadowId, fingerprint],
  );
}
