import { describeVersion, fixedVersion } from '#src/core/late-publication.ts';
import {
  copiedColumns,
  quoteIdentifier,
  quoteLiteral,
  quoteTable,
  type Table,
  type TableName,
} from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { findRefusedWrites } from './prove-writable.ts';

/**
 * CREATE PUBLICATION for exactly these leaf tables, with every operation. Never FOR ALL TABLES, which
 * would make production's UPDATE fail on a table that is created later without a key (trap 7); never
 * through the partition root, which would lose a TRUNCATE of one leaf (trap 18).
 *
 * https://www.postgresql.org/docs/current/sql-createpublication.html
 */
export function publicationSql(name: string, tables: readonly Table[]): string {
  assert(tables.length > 0, 'a publication without tables carries nothing');
  return (
    `CREATE PUBLICATION ${quoteIdentifier(name)} FOR TABLE ${tables.map(publishedTableSql).join(', ')} ` +
    `WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)`
  );
}

/**
 * A table as CREATE PUBLICATION and ALTER PUBLICATION … ADD TABLE name it, with its row filter and the
 * columns that are left. Servers before 15 know neither, and refuse what has one.
 */
function publishedTableSql(table: Table): string {
  const columns = copiedColumns(table).map(({ name }) => quoteIdentifier(name));
  const list = table.excludedColumns.length === 0 ? '' : ` (${columns.join(', ')})`;
  const filter = table.rowFilter === undefined ? '' : ` WHERE (${table.rowFilter})`;
  return `ONLY ${quoteTable(table)}${list}${filter}`;
}

/** What identifies our publication: a name can be made again, an oid cannot (trap 14). */
export type Publication = { readonly name: string; readonly oid: number };

/**
 * Create the publication in one transaction, which commits only if every table keeps accepting UPDATE
 * and DELETE: from the commit on production lives with it (trap 7).
 *
 * Throws PUBLICATION_CHANGED when the name is taken, PRIVILEGE_MISSING without CREATE on the database
 * or ownership of a table, PREFLIGHT_REFUSED when a table would refuse production's writes.
 */
export async function createPublication(options: {
  readonly session: Session;
  readonly name: string;
  readonly tables: readonly Table[];
}): Promise<Publication> {
  const { session, name, tables } = options;
  return session.transaction(async () => {
    // Waiting longer would queue production's VACUUM and DDL behind us.
    await session.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
    if ((await readPublication(session, name)) !== undefined) {
      throw new OperatorError('PUBLICATION_CHANGED', `publication ${name} exists already`);
    }
    await session.execute(publicationSql(name, tables));
    await session.execute(
      `COMMENT ON PUBLICATION ${quoteIdentifier(name)} IS ${quoteLiteral(COMMENT)}`,
    );
    await requireWritable(session, tables);
    const oid = await readPublication(session, name);
    assert(oid !== undefined, `publication ${name} vanished in its own transaction`);
    return { name, oid };
  });
}

/**
 * Add the tables that it does not publish yet, as `createPublication` would: only if they keep accepting
 * UPDATE and DELETE (trap 7). One whose list of columns is not that of its columns any more is taken out
 * first: nobody may follow it at that time. Changes are sent from the commit on; a snapshot that is to go with them must
 * be taken later.
 *
 * Throws PUBLICATION_CHANGED when it is not the one with this oid, PRIVILEGE_MISSING, PREFLIGHT_REFUSED,
 * the last also where the server could lose changes of a table that is added now.
 */
export async function publishTables(
  session: Session,
  publication: Publication,
  tables: readonly Table[],
): Promise<void> {
  await session.transaction(async () => {
    await session.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
    await requirePublication(session, publication);
    const published = await readPublishedParts(session, publication.oid);
    const name = quoteIdentifier(publication.name);
    const missing = tables.filter((table) => isToPublish(published.get(table.oid), table));
    if (missing.length === 0) return;
    requireLatePublication(session, missing);
    const outdated = missing.filter((table) => published.has(table.oid));
    if (outdated.length > 0) {
      const list = outdated.map((table) => `ONLY ${quoteTable(table)}`).join(', ');
      await session.execute(`ALTER PUBLICATION ${name} DROP TABLE ${list}`);
    }
    await session.execute(
      `ALTER PUBLICATION ${name} ADD TABLE ${missing.map(publishedTableSql).join(', ')}`,
    );
    await requireWritable(session, missing);
  });
}

/** Whether `publishTables` has to alter the publication for a table that it carries like this, if at all. */
export function isToPublish(part: string | undefined, table: Table): boolean {
  return part === undefined || !hasPublishedColumns(part, table);
}

/** Why the publication cannot be given tables while it is followed; undefined when it can. */
export function whyNotPublishedLate(serverVersion: number): string | undefined {
  const fixed = fixedVersion(serverVersion);
  if (fixed === undefined) return undefined;
  return (
    `the source is ${describeVersion(serverVersion)}, which can lose changes of a table that is published ` +
    `while others are followed; update it to ${fixed} or newer first`
  );
}

/**
 * Throws PREFLIGHT_REFUSED when one of the tables was, or is to be, published late by a server that could lose
 * its changes then. A lock that waits for every writer would do, too, and would hold production up.
 */
export function requireLatePublication(
  { serverVersion }: Pick<Session, 'serverVersion'>,
  tables: readonly (TableName & { readonly oid: number })[],
): void {
  const [table] = tables;
  const cause = whyNotPublishedLate(serverVersion);
  if (cause === undefined || table === undefined) return;
  throw new OperatorError(
    'PREFLIGHT_REFUSED',
    `table ${quoteTable(table)} cannot follow: ${cause}`,
    {
      detail: { relation: table.oid },
    },
  );
}

/**
 * Take tables out of it, by oid, as far as they are in it; their names. Production's writes to them go on
 * from the commit on, whatever their replica identity is (trap 7). Throws PUBLICATION_CHANGED.
 */
export async function unpublishTables(
  session: Session,
  publication: Publication,
  oids: readonly number[],
): Promise<readonly TableName[]> {
  return session.transaction(async () => {
    await session.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
    await requirePublication(session, publication);
    const rows = await session.query(
      `SELECT n.nspname, c.relname
         FROM pg_catalog.pg_publication_rel r
         JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE r.prpubid = $1 AND r.prrelid = ANY ($2::oid[])`,
      [publication.oid, oids.map(String)],
    );
    const tables = rows.map((row) => ({
      schema: row['nspname'] ?? '',
      name: row['relname'] ?? '',
    }));
    if (tables.length === 0) return [];
    const list = tables.map((table) => `ONLY ${quoteTable(table)}`).join(', ');
    await session.execute(
      `ALTER PUBLICATION ${quoteIdentifier(publication.name)} DROP TABLE ${list}`,
    );
    return tables;
  });
}

async function requireWritable(session: Session, tables: readonly Table[]): Promise<void> {
  const [refused] = await findRefusedWrites(session, tables);
  if (refused === undefined) return;
  throw new OperatorError(
    'PREFLIGHT_REFUSED',
    `a publication would make ${refused.kind} fail on ${quoteTable(refused.table)}`,
    { detail: { sqlstate: refused.sqlstate } },
  );
}

const LOCK_TIMEOUT_MS = 10_000;
const COMMENT = 'made by Understudy; removed by `understudy drop`';

/** The oid of the publication with this name, or undefined. */
export async function readPublication(session: Session, name: string): Promise<number | undefined> {
  const [row] = await session.query(
    'SELECT oid FROM pg_catalog.pg_publication WHERE pubname = $1',
    [name],
  );
  return row === undefined ? undefined : Number(row['oid']);
}

/** Throws PUBLICATION_CHANGED unless it is still there: one made again has silently missed changes (trap 14). */
export async function requirePublication(
  session: Session,
  { name, oid }: Publication,
): Promise<void> {
  const found = await readPublication(session, name);
  if (found === oid) return;
  throw new OperatorError(
    'PUBLICATION_CHANGED',
    `publication ${name} was ${found === undefined ? 'dropped' : 'made again'} on the source`,
  );
}

/** The oids of the tables that it publishes now, for a resume that asks whether it is still whole. */
export async function readPublishedTables(
  session: Session,
  publicationOid: number,
): Promise<ReadonlySet<number>> {
  const rows = await session.query(
    'SELECT prrelid FROM pg_catalog.pg_publication_rel WHERE prpubid = $1',
    [publicationOid],
  );
  return new Set(rows.map((row) => Number(row['prrelid'])));
}

/** Row filters and column lists exist from 15 on. */
const FILTERS_VERSION = 150_000;

/**
 * Of a row `r` of pg_publication_rel, how its table is published: a text that stays the same until
 * somebody alters the publication, whatever is renamed meanwhile. A table that was taken out and put back
 * has another entry; a publication whose operations were changed, and changed back, another xmin. Either
 * has left changes out.
 */
export function publishedPartSql(serverVersion: number): string {
  const entry = `'entry ', r.oid, ' ',
    (SELECT p.xmin FROM pg_catalog.pg_publication p WHERE p.oid = r.prpubid)`;
  if (serverVersion < FILTERS_VERSION) return `concat(${entry})`;
  return `concat(${entry}, CASE WHEN r.prattrs IS NOT NULL OR r.prqual IS NOT NULL
    THEN concat('${FILTER_MARK}', r.prattrs, ' rows ', md5(r.prqual::text)) END)`;
}

const FILTER_MARK = ' columns ';

/** Whether only some rows or columns are published, by such a text. */
export function isPublishedInPart(published: string): boolean {
  return published.includes(FILTER_MARK);
}

/**
 * Whether a part, as `publishedPartSql` gives it, has the columns that the table has now. A list does not
 * grow with its table: what is added to a table with excluded columns is not in the stream.
 */
export function hasPublishedColumns(part: string, table: Table): boolean {
  const attnums = copiedColumns(table).map(({ attnum }) => attnum);
  const isList = / columns \d/.test(part);
  return table.excludedColumns.length === 0
    ? !isList
    : part.includes(` columns ${attnums.join(' ')} rows `);
}

/**
 * Why the stream lacks changes of a table since `recorded`, what of it is published, was put on record; or
 * will lack some of those to come. Undefined when it has them all.
 */
export function describeGap(
  table: Table,
  recorded: string,
  published: string | undefined,
): string | undefined {
  if (published !== recorded) return `table ${quoteTable(table)} was not published all the time`;
  return hasPublishedColumns(recorded, table)
    ? undefined
    : `the publication has a list of columns of table ${quoteTable(table)}, and not of those that it has now`;
}

/** By oid, how each table of the publication is published; see `publishedPartSql`. */
export async function readPublishedParts(
  session: Session,
  publicationOid: number,
): Promise<ReadonlyMap<number, string>> {
  const rows = await session.query(
    `SELECT r.prrelid, ${publishedPartSql(session.serverVersion)} AS part
       FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = $1`,
    [publicationOid],
  );
  return new Map(rows.map((row) => [Number(row['prrelid']), row['part'] ?? '']));
}

/** Drop the publication with this name if it is still the one with this oid. Whether it was there. */
export async function dropPublication(
  session: Session,
  publication: Publication,
): Promise<boolean> {
  return session.transaction(async () => {
    if ((await readPublication(session, publication.name)) !== publication.oid) return false;
    await session.execute(`DROP PUBLICATION ${quoteIdentifier(publication.name)}`);
    return true;
  });
}
