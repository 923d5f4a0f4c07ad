import type { Filtered } from './row-filter.ts';

/** A relation's name as the catalog spells it, unquoted. */
export type TableName = { readonly schema: string; readonly name: string };

export type Column = {
  readonly name: string;
  /** pg_attribute.attnum: survives a rename, never reused. */
  readonly attnum: number;
  readonly typeOid: number;
  /** format_type(atttypid, atttypmod), schema-qualified where search_path is empty: `numeric(10,2)`. */
  readonly typeName: string;
  /** pg_type.typtype of the column's type: b base, c composite, d domain, e enum, r range, m multirange. */
  readonly typeKind: string;
  /** typelem, when the type is a true array (typcategory A), else 0. */
  readonly elementOid: number;
  /** Name of the type without modifier and schema when it is in pg_catalog, such as `int4`; else undefined. */
  readonly builtinType: string | undefined;
  readonly isNotNull: boolean;
  /** Stored or virtual: never written by us; computed by the target. */
  readonly isGenerated: boolean;
  /** '' none, 'a' GENERATED ALWAYS, 'd' BY DEFAULT (pg_attribute.attidentity). */
  readonly identity: '' | 'a' | 'd';
};

/** A table that holds rows of its own: an ordinary table or a leaf partition. */
export type Table = TableName &
  Filtered & {
    /** pg_class.oid on the source: identity that survives a rename. */
    readonly oid: number;
    /** Live columns of the dataset in attnum order, generated ones included, excluded ones not. */
    readonly columns: readonly Column[];
    /** Names of the replica identity's columns in index order; empty means no usable key. */
    readonly key: readonly string[];
    /** pg_class.relreplident: d default, i index, f full, n nothing. */
    readonly replicaIdentity: 'd' | 'i' | 'f' | 'n';
    /** The partitioned table at the root, when this is a leaf partition. */
    readonly partitionRoot: TableName | undefined;
    /** pg_relation_size / block size, now; of a table that is locked, pg_class.relpages. For estimates. */
    readonly pages: number;
    /** pg_class.reltuples, -1 when never analysed. */
    readonly rowsEstimate: number;
  };

/** `"Weird ""name"""`: always quoted, so that no keyword list has to be known. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

export function quoteTable(table: TableName): string {
  return `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`;
}

/** A string constant that means the same whatever standard_conforming_strings says. */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`;
  return text.includes('\\') ? ` E${quoted.replaceAll('\\', '\\\\')}` : quoted;
}

/** The columns that travel: everything but what the target computes itself. */
export function copiedColumns(table: Pick<Table, 'columns'>): readonly Column[] {
  return table.columns.filter((column) => !column.isGenerated);
}
