import type { Selection } from '#src/core/selection.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/**
 * Large objects belong to the database and not to a table. As with pg_dump, they go along with
 * everything, and not with schemas or tables that are named.
 */
export function includesLargeObjects(selection: Selection): boolean {
  return selection.schemas.length === 0 && selection.tables.length === 0;
}

/** What is read or written at once of an object; an object may have 4 TB. */
export const PIECE_BYTES = 1024 * 1024;

/**
 * SQL for whether our role may read object `m` of pg_largeobject_metadata, by the server's own rules:
 * has_largeobject_privilege exists from 18 on only. A NULL acl is that of the owner alone.
 */
export const READABLE = `
  (r.rolsuper OR pg_catalog.current_setting('lo_compat_privileges')::bool
   OR pg_catalog.pg_has_role(m.lomowner, 'USAGE')
   OR EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a
               WHERE a.privilege_type = 'SELECT'
                 AND CASE WHEN a.grantee = 0 THEN true
                          ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END))`;

const PAGE_OBJECTS = 500;

/** SQL for the objects after $1, in order, each with whether it may be read. */
const PAGE = `
  SELECT m.oid, ${READABLE} AS is_readable
    FROM pg_catalog.pg_largeobject_metadata m, pg_catalog.pg_roles r
   WHERE r.rolname = current_user AND m.oid > $1::int8::oid
   ORDER BY m.oid`;

/** How many objects there are, and how many of them the role may not read. */
export async function countObjects(
  session: Session,
): Promise<{ readonly objects: number; readonly unreadable: number }> {
  const [row] = await session.query(
    `SELECT count(*) AS objects, count(*) FILTER (WHERE NOT is_readable) AS unreadable
       FROM (SELECT ${READABLE} AS is_readable
               FROM pg_catalog.pg_largeobject_metadata m, pg_catalog.pg_roles r
              WHERE r.rolname = current_user) o`,
  );
  return { objects: Number(row?.['objects']), unreadable: Number(row?.['unreadable']) };
}

export type ObjectDigest = {
  readonly oid: number;
  /** Undefined when the role may not read it. */
  readonly digest: string | undefined;
  readonly bytes: number;
};

/**
 * SHA-256 of the hashes of each object's pieces, so that the server holds one piece at a time. Its bytes
 * by lo_get, which gives holes as zeros, and asks for the object's own privilege only.
 */
const DIGESTS_SQL = `
WITH page AS MATERIALIZED (${PAGE} LIMIT ${PAGE_OBJECTS})
SELECT p.oid, p.is_readable, s.bytes,
       (SELECT pg_catalog.encode(pg_catalog.sha256(
                 pg_catalog.string_agg(pg_catalog.sha256(
                   pg_catalog.lo_get(p.oid, o.at, ${PIECE_BYTES})), ''::bytea ORDER BY o.at)), 'hex')
          FROM pg_catalog.generate_series(0, s.bytes, ${PIECE_BYTES}) o (at)
         WHERE p.is_readable) AS digest
  FROM page p
  LEFT JOIN LATERAL (
    SELECT pg_catalog.lo_lseek64(f.fd, 0, 2) + pg_catalog.lo_close(f.fd) AS bytes
      FROM (SELECT pg_catalog.lo_open(p.oid, 262144) AS fd WHERE p.is_readable OFFSET 0) f
    OFFSET 0) s ON true
 ORDER BY p.oid`;

/** The next objects after `afterOid`; `isLast` when there are no more. In a transaction. */
export async function readDigests(
  session: Session,
  afterOid: number,
): Promise<{ readonly objects: readonly ObjectDigest[]; readonly isLast: boolean }> {
  const rows = await session.query(DIGESTS_SQL, [afterOid]);
  return {
    isLast: rows.length < PAGE_OBJECTS,
    objects: rows.map((row) => ({
      oid: Number(row['oid']),
      digest: row['is_readable'] === 't' ? (row['digest'] ?? '') : undefined,
      bytes: Number(row['bytes'] ?? 0),
    })),
  };
}

export type ObjectHead = {
  readonly oid: number;
  /** The first bytes as the text of a bytea; undefined when the role may not read it. */
  readonly head: string | undefined;
  readonly comment: string | undefined;
};

/** So many objects, of which so much comes with one statement. */
const HEAD_OBJECTS = 64;
export const HEAD_BYTES = 16 * 1024;

const HEADS_SQL = `
WITH page AS MATERIALIZED (${PAGE} LIMIT ${HEAD_OBJECTS})
SELECT p.oid, CASE WHEN p.is_readable THEN pg_catalog.lo_get(p.oid, 0, ${HEAD_BYTES}) END AS head,
       pg_catalog.obj_description(p.oid, 'pg_largeobject') AS comment
  FROM page p ORDER BY p.oid`;

/** The next objects after `afterOid`, each with its beginning. */
export async function readHeads(
  session: Session,
  afterOid: number,
): Promise<readonly ObjectHead[]> {
  const rows = await session.query(HEADS_SQL, [afterOid]);
  return rows.map((row) => ({
    oid: Number(row['oid']),
    head: row['head'] ?? undefined,
    comment: row['comment'] ?? undefined,
  }));
}

/** Bytes from `offset` on, at most a piece, as the text of a bytea. */
export async function readPiece(session: Session, oid: number, offset: number): Promise<string> {
  const [row] = await session.query(
    `SELECT pg_catalog.lo_get($1::int8::oid, $2::int8, ${PIECE_BYTES}) AS piece`,
    [oid, offset],
  );
  return row?.['piece'] ?? '\\x';
}

/** How many bytes the text of a bytea stands for. */
export function bytesOf(hex: string): number {
  return (hex.length - 2) / 2;
}

/** Those of the database with an OID in (after, last]. */
export async function readOids(
  session: Session,
  after: number,
  last: number,
): Promise<readonly number[]> {
  const rows = await session.query(
    `SELECT oid FROM pg_catalog.pg_largeobject_metadata
      WHERE oid > $1::int8::oid AND oid <= $2::int8::oid ORDER BY oid`,
    [after, last],
  );
  return rows.map(({ oid }) => Number(oid));
}
