import * as z from 'zod';

import { conjunction, type Filtered } from '#src/core/row-filter.ts';
import { selectRelations } from '#src/core/selection-pattern.ts';
import type { Selection } from '#src/core/selection.ts';
import type { Column, Table, TableName } from '#src/core/table.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';

const unsupportedReason = z.enum([
  'unlogged', // writes no WAL, so nothing can be followed
  'foreign', // its rows are elsewhere
]);

/** Why a relation is not one of the tables that can be copied and followed. */
export type UnsupportedReason = z.infer<typeof unsupportedReason>;

export type UnsupportedTable = TableName & {
  readonly oid: number;
  readonly reason: UnsupportedReason;
  readonly isPartition: boolean;
};

/** Everything of a selection that is table-like. */
export type SelectedRelations = {
  /** What holds rows and can be copied, sorted by schema and name. */
  readonly tables: readonly Table[];
  /** Partitioned tables, roots and inner levels alike: they hold no rows. */
  readonly partitioned: readonly PartitionedTable[];
  readonly unsupported: readonly UnsupportedTable[];
};

export type PartitionedTable = TableName & { readonly oid: number; readonly isRoot: boolean };

/**
 * The tables that hold the selected rows: ordinary tables, those of inheritance trees each by itself, and
 * leaf partitions of the user's schemas.
 * Neither ours (`understudy`) nor an extension's own. What cannot be copied is left out here and named
 * by `readRelations`.
 *
 * Throws SELECTION_EMPTY for a pattern that matches nothing.
 */
export async function readTables(
  session: Session,
  selection: Selection,
): Promise<readonly Table[]> {
  return (await readRelations(session, selection)).tables;
}

/** As `readTables`, with what the selection means besides. Two round trips, whatever the number of tables. */
export async function readRelations(
  session: Session,
  selection: Selection,
): Promise<SelectedRelations> {
  const selected = selectRelations(selection, withAncestors(await session.query(NAMES_SQL)));
  const supported = selected.filter(({ kind, reason }) => kind === 'r' && reason === undefined);
  return {
    tables: await readDetails(session, supported, selection),
    partitioned: selected
      .filter(({ kind }) => kind === 'p')
      .map(({ oid, schema, name, ancestors }) => ({
        oid,
        schema,
        name,
        isRoot: ancestors.length === 0,
      })),
    unsupported: selected.flatMap(({ oid, schema, name, reason, isPartition }) =>
      reason === undefined ? [] : [{ oid, schema, name, reason, isPartition }],
    ),
  };
}

/**
 * WHERE clause over `pg_class c JOIN pg_namespace n`: what belongs to the user. Temporary tables live in
 * pg_temp_N and belong to one session of production alone.
 */
export const USER_RELATIONS = `
      n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'understudy')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                   WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                     AND d.objid = c.oid AND d.deptype = 'e')`;

const NAMES_SQL = `
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, p.inhparent,
       CASE WHEN c.relkind = 'f' THEN 'foreign'
            WHEN c.relkind = 'r' AND c.relpersistence = 'u' THEN 'unlogged' END AS reason
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_inherits p ON p.inhrelid = c.oid AND c.relispartition
 WHERE c.relkind IN ('r', 'p', 'f') AND ${USER_RELATIONS}
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`;

type Relation = TableName & {
  readonly oid: number;
  readonly kind: string;
  readonly reason: UnsupportedReason | undefined;
  readonly isPartition: boolean;
  readonly ancestors: readonly TableName[];
};

function withAncestors(rows: readonly Row[]): readonly Relation[] {
  const byOid = new Map(rows.map((row) => [row['oid'], row]));
  const ancestorsOf = (row: Row): readonly TableName[] => {
    const parent = byOid.get(row['inhparent'] ?? null);
    return parent === undefined ? [] : [tableName(parent), ...ancestorsOf(parent)];
  };
  return rows.map((row) => ({
    ...tableName(row),
    oid: Number(row['oid']),
    kind: row['relkind'] ?? '',
    reason: unsupportedReason.optional().parse(row['reason'] ?? undefined),
    isPartition: row['relispartition'] === 't',
    ancestors: ancestorsOf(row),
  }));
}

function tableName(row: Row): TableName {
  return { schema: row['nspname'] ?? '', name: row['relname'] ?? '' };
}

/**
 * The key is what a change in the stream identifies its row by, so the rules are those of the server's
 * RelationGetReplicaIndex: a deferrable primary key does not count. Under FULL the stream carries the
 * whole old row but for generated columns, and any index that is unique over NOT NULL columns finds it;
 * without such an index the row is named by all of its values.
 */
const DETAILS_SQL = `
SELECT c.oid, n.nspname, c.relname, c.relreplident, c.reltuples::pg_catalog.int8 AS reltuples,
       -- It waits for a lock, maybe for hours: a load behind a TRUNCATE, or a change that waits itself.
       CASE WHEN c.oid IN (
         SELECT l.relation FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database b ON b.oid = l.database
          WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
            AND b.datname = pg_catalog.current_database()
            AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid())
       THEN c.relpages
       ELSE coalesce(pg_catalog.pg_relation_size(c.oid), 0)
            / pg_catalog.current_setting('block_size')::pg_catalog.int8 END AS pages,
       a.columns, k.names AS key
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
             'name', a.attname, 'attnum', a.attnum, 'typeOid', a.atttypid::pg_catalog.int8,
             'typeName', pg_catalog.format_type(a.atttypid, a.atttypmod), 'typeKind', t.typtype,
             'elementOid', coalesce(e.oid::pg_catalog.int8, 0),
             'builtinType',
             CASE WHEN t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN t.typname END,
             'isNotNull', a.attnotnull, 'isGenerated', a.attgenerated <> '',
             'identity', a.attidentity,
             'generatedFrom', CASE WHEN a.attgenerated <> '' THEN (
               -- Before 15 the column itself depended on the others, since then its expression does.
               SELECT pg_catalog.json_agg(DISTINCT b.attname)
                 FROM pg_catalog.pg_depend d
                 JOIN pg_catalog.pg_attribute b ON b.attrelid = d.refobjid AND b.attnum = d.refobjsubid
                WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.refobjid = c.oid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum
                  AND ((d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid = c.oid AND d.objsubid = a.attnum)
                    OR (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = (
                          SELECT f.oid FROM pg_catalog.pg_attrdef f
                           WHERE f.adrelid = c.oid AND f.adnum = a.attnum)))) END
             ) ORDER BY a.attnum) AS columns
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
  LEFT JOIN LATERAL (
    SELECT (SELECT pg_catalog.json_agg(b.attname ORDER BY u.position)
              FROM pg_catalog.unnest(x.indkey::pg_catalog.int2[])
                     WITH ORDINALITY AS u(attnum, position)
              JOIN pg_catalog.pg_attribute b ON b.attrelid = c.oid AND b.attnum = u.attnum
             WHERE u.position <= x.indnkeyatts) AS names
      FROM pg_catalog.pg_index x
     WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
       AND x.indpred IS NULL AND x.indexprs IS NULL
       AND CASE c.relreplident
             WHEN 'd' THEN x.indisprimary
             WHEN 'i' THEN x.indisreplident
             WHEN 'f' THEN NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute b
                WHERE b.attrelid = c.oid AND (NOT b.attnotnull OR b.attgenerated <> '')
                  AND b.attnum = ANY ((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1]))
             ELSE false END
     ORDER BY x.indisprimary DESC, x.indnkeyatts, x.indexrelid
     LIMIT 1) k ON true
 WHERE c.oid = ANY ($1::pg_catalog.oid[])
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`;

async function readDetails(
  session: Session,
  relations: readonly Relation[],
  selection: Selection,
): Promise<readonly Table[]> {
  if (relations.length === 0) return [];
  const byOid = new Map(relations.map((relation) => [relation.oid, relation]));
  const roots = new Map(relations.map(({ oid, ancestors }) => [oid, ancestors.at(-1)]));
  const rows = await session.query(DETAILS_SQL, [[...roots.keys()].map(String)]);
  return rows.map((row) => {
    const oid = Number(row['oid']);
    return {
      ...tableName(row),
      oid,
      ...filtered(byOid.get(oid), columnsJson.parse(JSON.parse(row['columns'] ?? '[]')), selection),
      key: keyJson.parse(JSON.parse(row['key'] ?? '[]')),
      replicaIdentity: replicaIdentity.parse(row['relreplident']),
      partitionRoot: roots.get(oid),
      pages: Number(row['pages']),
      rowsEstimate: Number(row['reltuples']),
    };
  });
}

type FoundColumn = z.infer<typeof columnsJson>[number];

/**
 * What the filters leave of a table. One that names a partitioned table is for each of its leaves; one
 * that names nothing is for the check to refuse. A column that the target would compute from an excluded
 * one is excluded with it.
 */
function filtered(
  relation: Relation | undefined,
  found: readonly FoundColumn[],
  { where, excludeColumns }: Selection,
): Filtered & { readonly columns: readonly Column[] } {
  const names = relation === undefined ? [] : [relation, ...relation.ancestors];
  const isMeant = ({ schema, name }: TableName): boolean =>
    names.some((one) => one.schema === schema && one.name === name);
  const filters = where.filter(isMeant).map(({ predicate }) => predicate);
  const named = new Set(excludeColumns.filter(isMeant).map(({ column }) => column));
  const isExcluded = ({ name, generatedFrom }: FoundColumn): boolean =>
    named.has(name) || generatedFrom.some((from) => named.has(from));
  return {
    rowFilter: filters.length > 1 ? conjunction(...filters) : filters[0],
    excludedColumns: found.filter(isExcluded).map(({ name }) => name),
    columns: found.filter((column) => !isExcluded(column)),
  };
}

const columnsJson = z.array(
  z.object({
    name: z.string(),
    attnum: z.number(),
    typeOid: z.number(),
    typeName: z.string(),
    typeKind: z.string(),
    elementOid: z.number(),
    builtinType: z
      .string()
      .nullable()
      .transform((name) => name ?? undefined),
    isNotNull: z.boolean(),
    isGenerated: z.boolean(),
    identity: z.enum(['', 'a', 'd']),
    generatedFrom: z
      .array(z.string())
      .nullable()
      .transform((names) => names ?? []),
  }),
) satisfies z.ZodType<readonly Column[]>;
const keyJson = z.array(z.string());
const replicaIdentity = z.enum(['d', 'i', 'f', 'n']);
