import { quoteIdentifier } from '#src/core/table.ts';

/**
 * Hashes of rows in SQL that differ whenever the rows' texts differ, and as good as never else: what two
 * servers are compared by.
 *
 * The server's own hash of a record does not do (trap 22): it calls equal what `=` calls equal (1.0 and
 * 1.00, 30 days and 1 mon, 0 and -0), folds 64-bit integers to 32, leaves out a numeric's sign, and has
 * nothing at all for json, xml or bit. So each type has a form: the cheapest expression that is
 * different for different texts.
 *
 * A row's hash is the exclusive or of its columns' hashes, each with a seed of its own, so that values
 * cannot trade places, and with a constant of its own for NULL. Forms of binary length (numeric, float,
 * time) share one hash of a record of byte strings, which is the cheapest way to hash those.
 */
export type ColumnForm = {
  readonly column: string;
  readonly form: Form;
};

export type Form =
  | 'int4' // any integer that int4 holds, and bool
  | 'int8'
  | 'oid'
  | 'char' // "char"
  | 'uuid'
  | 'inet'
  | 'string' // text as it is stored
  | 'bytes' // bytea
  | 'output' // what the type's output function prints
  | 'utf8' // the same as UTF-8: where the two servers encode text differently
  | 'md5' // the same, by md5: where a server's own hashes cannot be used
  | { readonly send: string } // a send function whose bytes differ exactly when the texts do
  | 'float'; // a send function too, but NaN has many bit patterns and one text

const BUILTIN_FORMS: Readonly<Record<string, Form>> = {
  bool: 'int4',
  int2: 'int4',
  int4: 'int4',
  int8: 'int8',
  oid: 'oid',
  char: 'char',
  uuid: 'uuid',
  inet: 'inet',
  cidr: 'inet',
  text: 'string',
  varchar: 'string',
  name: 'string',
  bytea: 'bytes',
  float4: 'float',
  float8: 'float',
  // Digits, sign and scale: 1.0 and 1.00 differ.
  numeric: { send: 'numeric_send' },
  date: { send: 'date_send' },
  time: { send: 'time_send' },
  timetz: { send: 'timetz_send' },
  timestamp: { send: 'timestamp_send' },
  timestamptz: { send: 'timestamptz_send' },
  // Months, days and time apart: 30 days and 1 mon differ.
  interval: { send: 'interval_send' },
  money: { send: 'cash_send' },
  bit: { send: 'bit_send' },
  varbit: { send: 'varbit_send' },
  pg_lsn: { send: 'pg_lsn_send' },
  xid8: { send: 'xid8send' },
  macaddr: { send: 'macaddr_send' },
  macaddr8: { send: 'macaddr8_send' },
};

/**
 * The form of a type by its name in pg_catalog (of the base type, for a domain); undefined for any other
 * type. By output: enums, whose OIDs differ between servers; reg* types, which are names to the reader
 * and OIDs inside; char(n), which drops its padding when cast; arrays, ranges, records, json and
 * everything else that is made of other values.
 */
export function formOf(builtinType: string | undefined): Form {
  if (builtinType === undefined || !Object.hasOwn(BUILTIN_FORMS, builtinType)) return 'output';
  return BUILTIN_FORMS[builtinType] ?? 'output';
}

/** Byte forms in one record; a tuple holds at most 1,664 columns. */
const RECORD_COLUMNS_MAX = 500;

/** The hash of a row as an SQL expression of type int8 over the row `alias`; never NULL. */
export function rowHashExpression(columns: readonly ColumnForm[], alias: string): string {
  const terms: string[] = [];
  const records: string[][] = [];
  for (const [index, { column, form }] of columns.entries()) {
    const value = `${alias}.${quoteIdentifier(column)}`;
    if (typeof form !== 'object' && form !== 'float') {
      terms.push(hashExpression(form, value, index + 1));
      continue;
    }
    const last = records.at(-1);
    if (last === undefined || last.length === RECORD_COLUMNS_MAX) {
      records.push([bytesExpression(form, value)]);
    } else {
      last.push(bytesExpression(form, value));
    }
  }
  for (const [index, record] of records.entries()) {
    terms.push(`hash_record_extended(ROW(${record.join(', ')}), ${seed(-1 - index)})`);
  }
  return terms.length === 0 ? '0::int8' : exclusiveOr(terms);
}

/** The hash of one column, to name the columns in which two rows differ. */
export function columnHashExpression({ column, form }: ColumnForm, alias: string): string {
  return hashExpression(form, `${alias}.${quoteIdentifier(column)}`, 1);
}

/** The hash of `value` (SQL) in a column's place; never NULL. */
export function hashExpression(form: Form, value: string, place: number): string {
  return `coalesce(${nullableHash(form, value, place)}, ${nullHash(place)})`;
}

function nullableHash(form: Form, value: string, place: number): string {
  switch (form) {
    case 'int4':
      return `hashint4extended(${value}::int4, ${seed(place)})`;
    case 'int8':
      // hashint8 folds 64 bits to 32. As a seed all of them count.
      return `hashint4extended(${seed(place) % 2n ** 31n}, ${value})`;
    case 'oid':
      return `hashoidextended(${value}, ${seed(place)})`;
    case 'char':
      return `hashcharextended(${value}, ${seed(place)})`;
    case 'uuid':
      return `uuid_hash_extended(${value}, ${seed(place)})`;
    case 'inet':
      return `hashinetextended(${value}, ${seed(place)})`;
    case 'string':
      // A nondeterministic collation calls different texts equal.
      return `hashtextextended(${value}::text COLLATE "C", ${seed(place)})`;
    case 'output':
      return `${ifPresent(value)} hashtextextended(${output(value)} COLLATE "C", ${seed(place)}) END`;
    case 'md5':
      return `${ifPresent(value)} ('x' || substr(md5(convert_to(${seed(place)}::text || ${output(value)}, 'UTF8')), 1, 16))::bit(64)::int8 END`;
    case 'bytes':
    case 'utf8':
    case 'float':
    default:
      return `${ifPresent(value)} hash_record_extended(ROW(${bytesExpression(form, value)}), ${seed(place)}) END`;
  }
}

type BytesForm = Extract<Form, 'bytes' | 'utf8' | 'float' | object>;

function bytesExpression(form: BytesForm, value: string): string {
  switch (form) {
    case 'bytes':
      return value;
    case 'utf8':
      return `convert_to(${output(value)}, 'UTF8')`;
    case 'float':
      return `CASE WHEN ${value} = 'NaN' THEN ''::bytea ELSE float8send(${value}) END`;
    default:
      return `${form.send}(${value})`;
  }
}

/** Of a composite, `IS NOT NULL` asks its fields; this asks the value. */
function ifPresent(value: string): string {
  return `CASE WHEN ${value} IS DISTINCT FROM NULL THEN`;
}

/** What the output function prints. Not a cast: char(n) has its own, and a user may have made one that loses something. */
function output(value: string): string {
  return `concat(${value})`;
}

/** Balanced, so that a table of 1,600 columns does not nest 1,600 levels deep. */
function exclusiveOr(terms: readonly string[]): string {
  if (terms.length === 1) return terms[0] ?? '';
  const middle = terms.length >> 1;
  return `(${exclusiveOr(terms.slice(0, middle))} # ${exclusiveOr(terms.slice(middle))})`;
}

const GOLDEN = 0x9e37_79b9_7f4a_7c15n;

/** Well spread positive constants, one a place. */
function seed(place: number): bigint {
  return BigInt.asUintN(63, BigInt(place) * GOLDEN);
}

function nullHash(place: number): string {
  return `${BigInt.asUintN(63, (BigInt(place) + 5_000n) * GOLDEN)}::int8`;
}
