import * as z from 'zod';

import { formatLsn, type Lsn, lsn, parseLsn } from '#src/core/lsn.ts';
import type { Verdict } from '#src/core/schema-change.ts';
import { relationShape, type RelationShape } from '#src/core/schema-shape.ts';
import { quoteLiteral } from '#src/core/table.ts';
import { readShapes } from '#src/db/postgres/catalog/shapes.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { readLsn } from '#src/db/postgres/replication/slot.ts';

/** A version of a table that is to be recorded; its number follows from those on record. */
export type NewVersion = {
  readonly sourceOid: number;
  readonly lsn: Lsn;
  readonly isExact: boolean;
  readonly tag: string;
  /** In words. */
  readonly change: string;
  readonly verdict: Verdict;
  /** Undefined when the table is gone. */
  readonly shape: RelationShape | undefined;
};

/** The newest version of a table. */
export type LatestVersion = Pick<NewVersion, 'sourceOid' | 'lsn' | 'shape'>;

/** As one statement, such as for an apply transaction. */
export function versionSql(shadowId: string, version: NewVersion): string {
  const { sourceOid, tag, change, verdict, shape, isExact } = version;
  const id = quoteLiteral(shadowId);
  const json = shape === undefined ? 'NULL' : `${quoteLiteral(JSON.stringify(shape))}::jsonb`;
  return `INSERT INTO understudy.schema_version
            (shadow_id, source_oid, version, lsn, is_exact, tag, change, verdict, shape)
          SELECT ${id}, ${sourceOid}, coalesce(max(v.version), 0) + 1, '${formatLsn(version.lsn)}'::pg_lsn,
                 ${isExact}, ${quoteLiteral(tag)}, ${quoteLiteral(change)}, ${quoteLiteral(verdict)}, ${json}
            FROM understudy.schema_version v
           WHERE v.shadow_id = ${id} AND v.source_oid = ${sourceOid}`;
}

/**
 * Record what these tables look like now as their first version, each unless it has one. The position is
 * asked for before the catalog is read, so that every later change is news: it commits behind it.
 */
export async function recordFirstVersions(
  sessions: { readonly source: Session; readonly target: Session },
  shadowId: string,
  oids: readonly number[],
): Promise<void> {
  const { source, target } = sessions;
  const known = await readLatestVersions(target, shadowId);
  const missing = oids.filter((oid) => !known.has(oid));
  if (missing.length === 0) return;
  const at = await readPosition(source);
  const shapes = await readShapes(source, missing);
  const rows = [...shapes.values()].map((shape) => ({ oid: shape.oid, shape }));
  await target.execute(
    `INSERT INTO understudy.schema_version
       (shadow_id, source_oid, version, lsn, is_exact, tag, change, verdict, shape)
     SELECT $1, t.oid, 1, $2::pg_lsn, false, 'START', 'as it was at first', 'goes on', t.shape
       FROM jsonb_to_recordset($3::jsonb) AS t (oid bigint, shape jsonb)
     ON CONFLICT DO NOTHING`,
    [shadowId, formatLsn(at), JSON.stringify(rows)],
  );
}

/**
 * Record that a table was copied again as of `at`, with the shape that it has now: what the stream still
 * says of changes before is no news. Nothing is recorded for a table that is gone.
 */
export async function recordReseededVersion(
  sessions: { readonly source: Session; readonly target: Session },
  shadowId: string,
  table: { readonly sourceOid: number; readonly at: Lsn },
): Promise<void> {
  const shape = (await readShapes(sessions.source, [table.sourceOid])).get(table.sourceOid);
  if (shape === undefined) return;
  await sessions.target.execute(
    versionSql(shadowId, {
      sourceOid: table.sourceOid,
      lsn: table.at,
      isExact: false,
      tag: 'RESEED',
      change: 'it was copied again',
      verdict: 'goes on',
      shape,
    }),
  );
}

/** Where the source writes now: whatever commits later lies behind it. */
export async function readPosition(source: Session): Promise<Lsn> {
  const [row] = await source.query('SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn');
  return readLsn(row?.['lsn'], 'pg_current_wal_insert_lsn');
}

/** The newest version of each table, by source OID. */
export async function readLatestVersions(
  target: Session,
  shadowId: string,
): Promise<ReadonlyMap<number, LatestVersion>> {
  const rows = await target.query(
    `SELECT DISTINCT ON (source_oid) source_oid, lsn, shape FROM understudy.schema_version
      WHERE shadow_id = $1 ORDER BY source_oid, version DESC`,
    [shadowId],
  );
  return new Map(
    rows.map((row) => {
      const sourceOid = Number(row['source_oid']);
      const at = parseLsn(row['lsn'] ?? '') ?? lsn(0n);
      return [sourceOid, { sourceOid, lsn: at, shape: parseShape(row) }];
    }),
  );
}

function parseShape(row: Row): RelationShape | undefined {
  const text = row['shape'] ?? undefined;
  return text === undefined ? undefined : relationShape.parse(JSON.parse(text));
}

/** A version as `schema history` shows it. */
export type RecordedVersion = {
  readonly shadowId: string;
  readonly sourceOid: number;
  readonly version: number;
  /** `schema.table` at that time; of a table that is gone, as it was last. */
  readonly table: { readonly schema: string; readonly name: string };
  readonly lsn: Lsn;
  readonly isExact: boolean;
  readonly tag: string;
  readonly change: string;
  readonly verdict: Verdict;
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  /** ISO 8601, the target's clock. */
  readonly seenAt: string;
};

const verdictSchema = z.enum(['goes on', 'resume', 'reseed']);

/** Every version of every table, the oldest first. */
export async function readVersions(target: Session): Promise<readonly RecordedVersion[]> {
  const rows = await target.query(
    `SELECT v.*, to_json(v.seen_at) #>> '{}' AS seen_text FROM understudy.schema_version v
      ORDER BY v.lsn, v.seen_at, v.shadow_id, v.source_oid, v.version`,
  );
  const names = new Map<string, RecordedVersion['table']>();
  return rows.map((row) => {
    const shape = parseShape(row);
    const shadowId = row['shadow_id'] ?? '';
    const key = `${shadowId} ${row['source_oid']}`;
    if (shape !== undefined) names.set(key, { schema: shape.schema, name: shape.name });
    return {
      shadowId,
      sourceOid: Number(row['source_oid']),
      version: Number(row['version']),
      table: names.get(key) ?? { schema: '', name: '' },
      lsn: parseLsn(row['lsn'] ?? '') ?? lsn(0n),
      isExact: row['is_exact'] === 't',
      tag: row['tag'] ?? '',
      change: row['change'] ?? '',
      verdict: verdictSchema.parse(row['verdict']),
      columns: (shape?.columns ?? []).map(({ name, type }) => ({ name, type })),
      seenAt: row['seen_text'] ?? '',
    };
  });
}
