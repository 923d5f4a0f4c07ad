import { formatLsn, type Lsn } from '#src/core/lsn.ts';
import type { TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { RelationRecord, TableStop } from '#src/shadow/ledger.ts';

/** How tables stop, come back and go for good, on record (ADR 0009, docs/state.md). */

/** Who writes: a runner that has lost the lease has no effect. */
export type Writer = {
  readonly target: Session;
  readonly shadowId: string;
  readonly epoch: bigint;
};

/** A table as the source has it now; by this name it is found on the target, too. */
export type TableShape = TableName &
  Pick<RelationRecord, 'columns' | 'key'> & { readonly sourceOid: number };

/**
 * A table that does not follow any more (trap 19), also one that was on its way back; the first reason
 * stays. The spool keeps what it needs to be resumed.
 */
export async function stopRelation(
  writer: Writer,
  sourceOid: number,
  stop: TableStop,
): Promise<void> {
  await asRunner(writer, async () =>
    writer.target.execute(
      `UPDATE understudy.relation
          SET state = 'stopped', is_in_lane = false, applied_lsn = NULL, stop_lsn = $3::pg_lsn,
              stop_code = $4, stop_message = $5, waits_for = $6, is_spooled = $7, spool_bytes = 0,
              stopped_at = now()
        WHERE shadow_id = $1 AND source_oid = $2 AND state <> 'stopped'`,
      [
        writer.shadowId,
        sourceOid,
        stop.lsn === undefined ? null : formatLsn(stop.lsn),
        stop.code,
        stop.message,
        stop.waitsFor,
        stop.waitsFor === 'resume',
      ],
    ),
  );
}

/** Let a lane apply the changes of a stopped table from where it stopped. False when that is no longer possible. */
export async function enterLane(writer: Writer, shape: TableShape): Promise<boolean> {
  return asRunner(writer, async () => {
    const touched = await writer.target.execute(
      `UPDATE understudy.relation
          SET state = 'catching up', is_in_lane = true, applied_lsn = stop_lsn, schema_name = $3,
              table_name = $4, columns = $5::jsonb, key_columns = $6
        WHERE shadow_id = $1 AND source_oid = $2 AND state = 'stopped'
          AND waits_for = 'resume' AND is_spooled AND stop_lsn IS NOT NULL`,
      shapeParameters(writer, shape),
    );
    return touched === 1;
  });
}

/**
 * Let a stopped table be copied again. Nothing of it is changed yet: the copy empties it when it has a new
 * snapshot. A table that was dropped and made again on the source has a new row here; the old one goes
 * when the table follows, since its changes may still be on their way. False when it is not stopped.
 */
export async function enterReseed(writer: Writer, shape: TableShape): Promise<boolean> {
  return asRunner(writer, async () => {
    // With a cut that belongs to no snapshot, the copy starts it again. One that an earlier copy left alive
    // would not do: the spool need not have the changes since.
    const touched = await writer.target.execute(
      `INSERT INTO understudy.relation AS r
              (shadow_id, source_oid, schema_name, table_name, columns, key_columns, state, is_in_lane,
               part_pages)
       VALUES ($1, $2, $3, $4, $5::jsonb, $6, 'copying', true, 1)
       ON CONFLICT (shadow_id, source_oid) DO UPDATE
          SET state = 'copying', is_in_lane = true, generation = 0, schema_name = excluded.schema_name,
              table_name = excluded.table_name, columns = excluded.columns,
              key_columns = excluded.key_columns, part_pages = coalesce(r.part_pages, 1),
              -- Of a copy that failed; of one that stopped it says what a resume has to skip.
              start_lsn = CASE WHEN r.stop_lsn IS NOT NULL THEN r.start_lsn END
        WHERE r.state = 'stopped'`,
      shapeParameters(writer, shape),
    );
    await forget(writer, [shape.sourceOid], VERIFIED);
    return touched === 1;
  });
}

/**
 * A copy or a lane has failed for good: the table is stopped, as it was before if nothing of it was
 * changed yet, else at no position.
 */
export async function leaveReseed(
  writer: Writer,
  sourceOids: readonly number[],
  failure: { readonly code: string; readonly message: string },
): Promise<void> {
  await asRunner(writer, async () =>
    writer.target.execute(
      `UPDATE understudy.relation
          SET state = 'stopped', is_in_lane = false, applied_lsn = NULL,
              stop_code = CASE WHEN stop_lsn IS NULL THEN $3 ELSE stop_code END,
              stop_message = CASE WHEN stop_lsn IS NULL THEN $4 ELSE stop_message END,
              waits_for = CASE WHEN stop_lsn IS NULL THEN 'reseed' ELSE waits_for END,
              stopped_at = CASE WHEN stop_lsn IS NULL THEN now() ELSE stopped_at END
        WHERE shadow_id = $1 AND source_oid = ANY ($2::int8[]) AND is_in_lane`,
      [writer.shadowId, sourceOids.map(String), failure.code, failure.message],
    ),
  );
}

/**
 * The table follows by the main loop, which stands at `lsn`, as does the lane. A copy whose snapshot is later
 * than that has had nothing applied to it yet: the main loop skips what the snapshot holds. False when the
 * table was stopped meanwhile.
 */
export async function handOver(writer: Writer, shape: TableShape, lsn: Lsn): Promise<boolean> {
  return asRunner(writer, async () => {
    const { target, shadowId } = writer;
    // The main loop is held meanwhile.
    await target.query(`SET LOCAL lock_timeout = '5s'`);
    const touched = await target.execute(
      `UPDATE understudy.relation
          SET state = 'copied', is_in_lane = false, applied_lsn = NULL,
              start_lsn = greatest(start_lsn, $7::pg_lsn),
              schema_name = $3, table_name = $4, columns = $5::jsonb, key_columns = $6,
              stop_lsn = NULL, stop_code = NULL, stop_message = NULL, stopped_at = NULL,
              waits_for = NULL, is_spooled = false, spool_bytes = 0
        WHERE shadow_id = $1 AND source_oid = $2 AND state = 'catching up'
          AND (applied_lsn <= $7::pg_lsn OR applied_lsn = start_lsn)`,
      [...shapeParameters(writer, shape), formatLsn(lsn)],
    );
    if (touched !== 1) return false;
    // The next verification reads it whole: how it was brought back is no proof of its rows.
    await target.execute(
      `INSERT INTO understudy.dirty_table (shadow_id, source_oid, lsn) VALUES ($1, $2, $3::pg_lsn)
       ON CONFLICT (shadow_id, source_oid) DO UPDATE SET lsn = excluded.lsn`,
      [shadowId, shape.sourceOid, formatLsn(lsn)],
    );
    await removeFormer(writer, shape);
    return true;
  });
}

/** Earlier tables of that name; every change of theirs has been passed by now. */
async function removeFormer(writer: Writer, shape: TableShape): Promise<void> {
  const rows = await writer.target.query(
    `DELETE FROM understudy.relation
      WHERE shadow_id = $1 AND source_oid <> $2 AND schema_name = $3 AND table_name = $4
        AND state = 'stopped' RETURNING source_oid`,
    [writer.shadowId, shape.sourceOid, shape.schema, shape.name],
  );
  const oids = rows.map((row) => Number(row['source_oid']));
  await forget(writer, oids, ['part', ...VERIFIED]);
}

/**
 * Take a stopped table off the record that its newest version says was dropped. That version was written
 * in the apply transaction, so no change of the table comes any more. Whether it was so.
 */
export async function forgetRelation(
  target: Session,
  shadowId: string,
  sourceOid: number,
): Promise<boolean> {
  return target.transaction(async () => {
    const deleted = await target.execute(
      `DELETE FROM understudy.relation r
        WHERE r.shadow_id = $1 AND r.source_oid = $2 AND r.state = 'stopped'
          AND (SELECT v.shape IS NULL FROM understudy.schema_version v
                WHERE v.shadow_id = $1 AND v.source_oid = $2 ORDER BY v.version DESC LIMIT 1)`,
      [shadowId, sourceOid],
    );
    if (deleted === 0) return false;
    await forget({ target, shadowId }, [sourceOid], ['part', ...VERIFIED]);
    return true;
  });
}

/** How tables were cut for verification, and what that found. */
const VERIFIED = ['chunking', 'chunk', 'dirty_chunk', 'dirty_table'];

async function forget(
  { target, shadowId }: Pick<Writer, 'target' | 'shadowId'>,
  sourceOids: readonly number[],
  ledgerTables: readonly string[],
): Promise<void> {
  for (const table of ledgerTables) {
    await target.execute(
      `DELETE FROM understudy.${table} WHERE shadow_id = $1 AND source_oid = ANY ($2::int8[])`,
      [shadowId, sourceOids.map(String)],
    );
  }
}

function shapeParameters(
  { shadowId }: Writer,
  { sourceOid, schema, name, columns, key }: TableShape,
): (string | number | readonly string[])[] {
  return [shadowId, sourceOid, schema, name, JSON.stringify(columns), key];
}

/** In one transaction that holds the lease, as every apply transaction does. */
async function asRunner<T>(writer: Writer, work: () => Promise<T>): Promise<T> {
  const { target, shadowId, epoch } = writer;
  return target.transaction(async () => {
    const rows = await target.query(
      'SELECT FROM understudy.lease WHERE shadow_id = $1 AND epoch = $2 FOR SHARE',
      [shadowId, epoch],
    );
    if (rows.length === 1) return work();
    throw new OperatorError('LEASE_LOST', `shadow ${shadowId} has a newer runner`);
  });
}
