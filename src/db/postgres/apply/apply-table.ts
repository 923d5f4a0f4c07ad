import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';
import type { KeyedTable } from '#src/wire/postgres/net-entry.ts';

/** A column of the target as the apply statements need it; order and names are those of the stream. */
export type ApplyColumn = {
  readonly name: string;
  /** Base type on the target: the element type of a parameter array. */
  readonly typeOid: number;
  /** The array type over it. */
  readonly arrayOid: number;
  /** format_type() with its modifier: what a text value is cast to. */
  readonly typeName: string;
  /** pg_attribute.atttypmod, which the stream's must equal: a cast would cut values that do not fit. */
  readonly typeModifier: number;
  /** unnest() would take an array of arrays apart, so such a column needs another shape in binary. */
  readonly isArray: boolean;
  /** A cast from text calls the type's own input function, as COPY does; see `readTargetColumns`. */
  readonly isCastInput: boolean;
  /** octet_length() answers without reading a value that is kept out of line: text, varchar and bytea. */
  readonly hasKnownLength: boolean;
  /** Its equality as an index knows it. Under an empty search_path `=` finds built-in ones only. */
  readonly equality: string;
};

/** A table on the target that changes of one source relation go to. */
export type ApplyTable = KeyedTable & {
  readonly columns: readonly ApplyColumn[];
  readonly format: ValueFormat;
};

/** A statement to prepare, and which columns of the tuple it takes, in the order of its parameters. */
export type ApplyStatement = {
  readonly sql: string;
  /** A parameter is an array of a column's values, or one value. */
  readonly isOfArrays: boolean;
  readonly parameterOids: readonly number[];
  /** Of the old key (a moved row only) and of the row. */
  readonly beforeIndexes: readonly number[];
  readonly indexes: readonly number[];
};

const TEXT_OID = 25;
const TEXT_ARRAY_OID = 1009;

/** OID of the elements of array parameter `i` of a statement over `indexes`. */
export function elementOid(table: ApplyTable, index: number): number {
  return table.format === 'text' ? TEXT_OID : (table.columns[index]?.typeOid ?? TEXT_OID);
}

const allIndexes = (table: ApplyTable): number[] => table.columns.map((_, i) => i);

/** Columns that an update sets: those that are known, without the key, which it does not change. */
export function knownIndexes(table: ApplyTable, unchanged: string): number[] {
  const skipped = new Set(unchanged === '' ? [] : unchanged.split(',').map(Number));
  return allIndexes(table).filter((i) => !skipped.has(i));
}

/** DELETE, UPDATE and INSERT of many rows: one array parameter a column. */
export function deleteMany(table: ApplyTable): ApplyStatement {
  const source = unnested(table, table.keyIndexes);
  return {
    sql: `DELETE FROM ONLY ${quoteTable(table.name)} AS t USING ${source.from} WHERE ${source.join}`,
    ...source.parameters,
  };
}

export function updateMany(table: ApplyTable, unchanged: string): ApplyStatement {
  const indexes = knownIndexes(table, unchanged);
  const source = unnested(table, indexes);
  return {
    sql: `UPDATE ONLY ${quoteTable(table.name)} AS t SET ${assignments(table, indexes, source.value)} FROM ${source.from} WHERE ${source.join}`,
    ...source.parameters,
  };
}

export function insertMany(table: ApplyTable): ApplyStatement {
  const indexes = allIndexes(table);
  const source = unnested(table, indexes);
  const values = indexes.map(source.value).join(', ');
  return {
    sql: `INSERT INTO ${quoteTable(table.name)} (${names(table, indexes)}) OVERRIDING SYSTEM VALUE SELECT ${values} FROM ${source.from}`,
    ...source.parameters,
  };
}

/** COPY takes rows of the whole stream shape; it is always allowed to set identity columns. */
export function copyIn(table: ApplyTable): string {
  return copyInto(quoteTable(table.name), table);
}

/** The same into another relation with the columns of the stream. Without any there can be no list of them. */
export function copyInto(relation: string, table: ApplyTable): string {
  const options = table.format === 'binary' ? ' WITH (FORMAT binary)' : '';
  const list = table.columns.length === 0 ? '' : ` (${names(table, allIndexes(table))})`;
  return `COPY ${relation}${list} FROM STDIN${options}`;
}

/** INSERT, UPDATE, DELETE and a change of key of one row: one parameter a column, of the column's type. */
export function insertOne(table: ApplyTable): ApplyStatement {
  const indexes = allIndexes(table);
  const values = indexes.map((_, i) => `$${i + 1}`).join(', ');
  return oneRow(
    table,
    `INSERT INTO ${quoteTable(table.name)} (${names(table, indexes)}) OVERRIDING SYSTEM VALUE VALUES (${values})`,
    [],
    indexes,
  );
}

export function deleteOne(table: ApplyTable): ApplyStatement {
  return oneRow(
    table,
    `DELETE FROM ONLY ${quoteTable(table.name)} WHERE ${keyEquals(table, 1)}`,
    table.keyIndexes,
    [],
  );
}

/** An update by the old key that may set a new one, so that unknown values stay (trap 11). */
export function updateOne(table: ApplyTable, unchanged: string): ApplyStatement {
  const indexes = knownIndexes(table, unchanged);
  const first = table.keyIndexes.length + 1;
  const set = indexes.map((index, i) => `${columnName(table, index)} = $${first + i}`).join(', ');
  return oneRow(
    table,
    `UPDATE ONLY ${quoteTable(table.name)} SET ${set} WHERE ${keyEquals(table, 1)}`,
    table.keyIndexes,
    indexes,
  );
}

function oneRow(
  table: ApplyTable,
  sql: string,
  beforeIndexes: readonly number[],
  indexes: readonly number[],
): ApplyStatement {
  // Inferred, the parameter of `pair = $1` would be any record, whose text cannot be read.
  const parameterOids = [...beforeIndexes, ...indexes].map(
    (index) => table.columns[index]?.typeOid ?? 0,
  );
  return { sql, isOfArrays: false, parameterOids, beforeIndexes, indexes };
}

/** A FROM item that yields one row an array element, and how its columns are named there. */
function unnested(table: ApplyTable, indexes: readonly number[]) {
  const value = (index: number): string => {
    const column = `s.c${index}`;
    return table.format === 'text' ? `${column}::${table.columns[index]?.typeName}` : column;
  };
  const parameters = indexes.map((_, i) => `$${i + 1}`).join(', ');
  const aliases = indexes.map((index) => `c${index}`).join(', ');
  const join = table.keyIndexes
    .map((index) => `t.${columnName(table, index)} ${equality(table, index)} ${value(index)}`)
    .join(' AND ');
  return {
    from: `unnest(${parameters}) AS s(${aliases})`,
    join,
    value,
    parameters: {
      isOfArrays: true,
      parameterOids: indexes.map((index) =>
        table.format === 'text' ? TEXT_ARRAY_OID : (table.columns[index]?.arrayOid ?? 0),
      ),
      beforeIndexes: [],
      indexes,
    },
  };
}

/** The key is set, too: a table may have no other column, and SET needs one. Its value is the same. */
function assignments(
  table: ApplyTable,
  indexes: readonly number[],
  value: (index: number) => string,
): string {
  const others = indexes.filter((index) => !table.keyIndexes.includes(index));
  return (others.length > 0 ? others : table.keyIndexes)
    .map((index) => `${columnName(table, index)} = ${value(index)}`)
    .join(', ');
}

function keyEquals(table: ApplyTable, firstParameter: number): string {
  return table.keyIndexes
    .map(
      (index, i) => `${columnName(table, index)} ${equality(table, index)} $${firstParameter + i}`,
    )
    .join(' AND ');
}

function equality(table: ApplyTable, index: number): string {
  return table.columns[index]?.equality ?? '=';
}

function columnName(table: ApplyTable, index: number): string {
  return quoteIdentifier(table.columns[index]?.name ?? '');
}

export function names(table: ApplyTable, indexes: readonly number[]): string {
  return indexes.map((index) => columnName(table, index)).join(', ');
}
