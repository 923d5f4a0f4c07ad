/** Values that are easily broken on their way, by type; each is an input literal. */
export type TypeValues = Readonly<Record<string, readonly string[]>>;

/** Types whose binary form crosses between servers. */
export const SAFE_VALUES: TypeValues = {
  bool: ['t', 'f'],
  int2: ['-32768', '0', '32767'],
  int4: ['-2147483648', '0', '2147483647'],
  int8: ['-9223372036854775808', '0', '9223372036854775807'],
  float4: ['0', '-0', 'NaN', 'Infinity', '-Infinity', '1e-45', '3.4028235e38', '0.1'],
  float8: ['0', '-0', 'NaN', 'Infinity', '-Infinity', '5e-324', '1.7976931348623157e308', '0.1'],
  numeric: [
    '0',
    '-0.00',
    '1.0',
    '1.00',
    'NaN',
    'Infinity',
    '-Infinity',
    '1e-1000',
    '12345678901234567890.123456789',
  ],
  'numeric(12,2)': ['-9999999999.99', '0', '1.5'],
  text: [
    '',
    'a',
    '\\',
    '\\N',
    '\\.',
    'a\tb',
    'a\nb',
    'a\r\nb',
    '"{}",NULL',
    "it's",
    'größe \u{1f600}',
    'x'.repeat(3000),
  ],
  'varchar(20)': ['', 'exactly twenty chars', ' padded '],
  'char(5)': ['', 'a', 'abcde', '  b'],
  '"char"': ['', 'a', '\\'],
  name: ['', 'x'.repeat(63)],
  bytea: ['', '\\x00', '\\x5c090a0d00ff', '\\xdeadbeef'],
  date: ['infinity', '-infinity', '4713-01-01 BC', '0001-01-01', '5874897-12-31', '2000-02-29'],
  time: ['00:00:00', '24:00:00', '23:59:59.999999'],
  'time(0)': ['24:00:00', '12:00:00'],
  timetz: ['24:00:00+00', '00:00:00-15:59', '12:34:56.789+05:30'],
  timestamp: ['infinity', '-infinity', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999'],
  timestamptz: ['infinity', '-infinity', '0044-03-15 12:00:00+00 BC', '2024-02-03 04:05:06.789+00'],
  'timestamptz(3)': ['2024-02-03 04:05:06.789+00'],
  interval: ['0', '-1 mons +30 days -24:00:00', '178000000 years', '1 day 00:00:00.000001'],
  'interval(3)': ['1.234 seconds'],
  uuid: ['00000000-0000-0000-0000-000000000000', 'FFFFFFFF-ffff-ffff-ffff-ffffffffffff'],
  json: ['{"a": 1,  "a": 2}', 'null', '"\\u00e9\\\\"', '[]'],
  jsonb: ['{"a": 1.00, "b": [null, "\\n"]}', 'null', '1e-10'],
  inet: ['10.1.2.3/8', '::ffff:1.2.3.4/128', '0.0.0.0/0'],
  cidr: ['10.0.0.0/8', '2001:db8::/32'],
  macaddr: ['08:00:2b:01:02:03'],
  macaddr8: ['08:00:2b:01:02:03:04:05'],
  'bit(5)': ['00000', '10101'],
  'bit varying': ['', '1', '1010101010101'],
  'varbit(7)': ['', '1010101'],
  point: ['(0,-0)', '(NaN,Infinity)'],
  line: ['{1,-1,0}'],
  lseg: ['[(0,0),(1,1)]'],
  box: ['(1,1),(0,0)'],
  path: ['[(0,0),(1,1)]', '((0,0),(1,1))'],
  polygon: ['((0,0),(1,1),(2,0))'],
  circle: ['<(0,0),1>'],
  pg_lsn: ['0/0', 'FFFFFFFF/FFFFFFFF'],
  'public.mood': ['', 'so "la" la', 'a,b', "it's", '{}', '\\'],
};

/** Arrays of those, and of their odd shapes. */
export const SAFE_ARRAYS: TypeValues = {
  'int4[]': ['{}', '{1,NULL,-3}', '[2:4]={1,2,3}', '[-1:0][3:4]={{1,2},{3,4}}'],
  'text[]': ['{}', '{NULL,"NULL",""}', '{"a,b","c\\"d","e\\\\f","{}"," g "}', '[0:0]={x}'],
  'numeric(6,2)[]': ['{1.00,-0.10,NaN}'],
  'timestamptz[]': ['{infinity,"2024-02-03 04:05:06+00"}'],
  'bytea[]': ['{"\\\\x00ff",""}'],
  'jsonb[]': ['{"{\\"a\\": [1, 2]}",null}'],
  'bool[]': ['{t,f,NULL}'],
};

/** Types that cross as text only. */
export const TEXT_VALUES: TypeValues = {
  money: ['0', '-92233720368547758.08', '1.50'],
  xml: ['', '<a b="c">d &amp; e</a>', 'text', '<a/><b/>'],
  oid: ['0', '4294967295'],
  regclass: ['pg_class', '-', '999999999'],
  regtype: ['integer', 'character varying', '-'],
  regproc: ['now', '-'],
  regrole: ['postgres', '-'],
  regnamespace: ['pg_catalog', '-'],
  tsvector: ['', "'a':1A,2B 'b c':3"],
  tsquery: ['', "'a' & !'b c':*"],
  int4range: ['empty', '[1,5)', '(,)', '[3,)'],
  numrange: ['empty', '[1.0,1.00]', '(-Infinity,Infinity)'],
  tstzrange: ['["2024-01-01 00:00:00+00",infinity)', 'empty'],
  daterange: ['(,2024-01-01)', '[2024-01-01,infinity)'],
  int4multirange: ['{}', '{[1,3),[5,8)}'],
  nummultirange: ['{[1.0,1.00]}', '{(,0),[1,)}'],
  xid: ['0', '4294967295'],
  xid8: ['18446744073709551615'],
  cid: ['7'],
  tid: ['(0,1)', '(4294967295,65535)'],
  pg_snapshot: ['10:20:10,14,15'],
  jsonpath: ['$."a b"[*] ? (@ > 1)'],
  int2vector: ['', '1 2 -3'],
  oidvector: ['', '1 2 3'],
  'public.email': ['', 'a@b "c" \\', 'größe@x'],
  'public.positive': ['1', '99999.99'],
  'public.relation': ['pg_class', '-', '999999999'],
  'public.pair': ['(,)', '("a, b",1)', '("(""q"")\\\\",-0.00)'],
  'public.span': ['empty', '[1,2)'],
  'public.mood[]': ['{}', '{"so \\"la\\" la",NULL,""}', '{"a,b","\\\\"}'],
  'public.email[]': ['{"a b",NULL}'],
  'public.pair[]': ['{"(x,1)",NULL}'],
  'money[]': ['{1.50,NULL}'],
  'int4range[]': ['{empty,"[1,5)"}'],
  'regclass[]': ['{pg_class,-}'],
  'interval[]': ['{"1 mon -1 days",NULL}'],
};

export const USER_TYPES = `
CREATE TYPE public.mood AS ENUM ('', 'so "la" la', 'a,b', 'it''s', '{}', E'\\\\');
CREATE DOMAIN public.email AS varchar(40) COLLATE "C";
CREATE DOMAIN public.positive AS numeric(7,2) CHECK (VALUE > 0);
CREATE DOMAIN public.relation AS regclass;
CREATE TYPE public.pair AS (name text, amount numeric);
CREATE TYPE public.span AS RANGE (subtype = int8);`;

/** A table with one column a type, `c0`, `c1` …, behind an int4 key. */
export function valuesTable(name: string, values: TypeValues): string {
  const columns = Object.keys(values).map((type, i) => `, c${i} ${type}`);
  return `CREATE TABLE public.${name} (id int4 PRIMARY KEY${columns.join('')});`;
}

/** Row `id` has the values number `id` of every type, around; every seventh column is NULL. */
export function insertValues(
  name: string,
  values: TypeValues,
  ids: { readonly from: number; readonly to: number },
): string {
  const rows: string[] = [];
  for (let id = ids.from; id <= ids.to; id++) {
    const columns = Object.entries(values).map(([type, literals], i) =>
      (id + i) % 7 === 0
        ? 'NULL'
        : `${literal(literals[(id + i) % literals.length] ?? '')}::${type}`,
    );
    rows.push(`(${[id, ...columns].join(', ')})`);
  }
  return `INSERT INTO public.${name} VALUES ${rows.join(', ')}`;
}

/** Give the rows that `where` names the values of their neighbours. */
export function rotateValues(name: string, values: TypeValues, where: string): string {
  const set = Object.keys(values).map((_, i) => `c${i} = s.c${i}`);
  return `UPDATE public.${name} t SET ${set.join(', ')} FROM public.${name} s
          WHERE s.id = t.id % (SELECT max(id) FROM public.${name}) + 1 AND ${where}`;
}

function literal(text: string): string {
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}
