import * as z from 'zod';

/**
 * What a table looks like, as far as its rows and its changes in the stream depend on it. One form for
 * the catalog, for the messages of our event triggers and for the ledger, so that all can be compared.
 * Nothing in it is a row's value, a default or an expression (I14).
 */
export const relationShape = z.object({
  oid: z.number(),
  schema: z.string(),
  name: z.string(),
  /** pg_class.relkind: r table, p partitioned table. */
  kind: z.string(),
  /** pg_class.relpersistence: p permanent, u unlogged. */
  persistence: z.string(),
  /** pg_class.relfilenode: another one after a rewrite, TRUNCATE, VACUUM FULL or CLUSTER. */
  fileNode: z.number(),
  /** pg_class.relreplident: d default, i index, f full, n nothing. */
  identity: z.string(),
  /** attnums by which rows are named, ascending; empty when there is no usable key. */
  key: z.array(z.number()),
  /** OID of the partitioned table that it is a partition of. */
  partitionOf: z.number().nullable(),
  /** OIDs of the tables that it inherits from, ascending. */
  inherits: z.array(z.number()),
  /** Of a partitioned table: OIDs of its partitions. */
  partitions: z.array(z.number()),
  columns: z.array(
    z.object({
      attnum: z.number(),
      name: z.string(),
      typeOid: z.number(),
      typmod: z.number(),
      /** format_type, for descriptions only. */
      type: z.string(),
      isNotNull: z.boolean(),
      /** '' no, 's' stored, 'v' virtual. */
      generated: z.string(),
      /** '' no, 'a' always, 'd' by default. */
      identity: z.string(),
      /** It was added with a default, so rows from before have a value that no change has told. */
      hasMissing: z.boolean(),
    }),
  ),
  /** Enums and composites that its columns are made of, at any depth. */
  types: z.array(
    z.object({
      oid: z.number(),
      name: z.string(),
      labels: z.array(z.object({ oid: z.number(), label: z.string() })),
      attributes: z.array(
        z.object({
          attnum: z.number(),
          name: z.string(),
          typeOid: z.number(),
          typmod: z.number(),
        }),
      ),
    }),
  ),
});

export type RelationShape = z.infer<typeof relationShape>;
export type ShapeColumn = RelationShape['columns'][number];
export type ShapeType = RelationShape['types'][number];
