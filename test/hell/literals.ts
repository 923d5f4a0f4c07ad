/**
 * For every type that a column of a user may have, values at its edges, as SQL that is cast to the type.
 * What cannot be a column's type (pseudo-types) or has no input (pg_ndistinct, pg_dependencies,
 * pg_mcv_list, pg_node_tree, gtsvector, pg_brin_*) is left out; the test compares with the catalog.
 */
export type TypeValues = {
  readonly type: string;
  readonly since?: number;
  readonly values: readonly string[];
  /** Further values from a newer major on. */
  readonly newer?: { readonly since: number; readonly values: readonly string[] };
};

/** Text that breaks careless quoting, in COPY, in arrays, in composites and in SQL. */
const TEXTS: readonly string[] = [
  `'zqrow'`,
  `''`,
  `E'zqrow\\t\\n\\r\\b\\f\\\\ \\\\N \\\\. '''`,
  `E'\\\\.'`,
  `'zqrow {a,"b",NULL} (1,2) "" $$ ; -- /*'`,
  `'NULL'`,
  `U&'zqrow \\00E9 e\\0301 \\+01F600 \\FEFF \\0001 \\007F \\2028'`,
  `'  zqrow  '`,
  `repeat('zqrow', 1000)`,
];

export const BUILT_IN: readonly TypeValues[] = [
  { type: 'bool', values: ['true', 'false'] },
  { type: 'int2', values: ['-32768', '32767', '0'] },
  { type: 'int4', values: ['-2147483648', '2147483647', '0'] },
  {
    type: 'int8',
    values: ['-9223372036854775808', '9223372036854775807', '9007199254740993', '0'],
  },
  {
    type: 'float4',
    values: [`'NaN'`, `'Infinity'`, `'-Infinity'`, `'-0'`, '0', `'1e-45'`, `'3.4028235e38'`, '0.1'],
  },
  {
    type: 'float8',
    values: [
      `'NaN'`,
      `'Infinity'`,
      `'-Infinity'`,
      `'-0'`,
      '0',
      `'5e-324'`,
      `'1.7976931348623157e308'`,
      '0.1',
      '0.30000000000000004',
    ],
  },
  {
    type: 'numeric',
    values: [
      `'NaN'`,
      `'Infinity'`,
      `'-Infinity'`,
      '0',
      '0.00',
      '1',
      '1.0',
      '1.000',
      '-0.00000000000000000001',
      `('1' || repeat('0', 131071))`,
      `('0.' || repeat('0', 16382) || '1')`,
      '10000.00010000',
    ],
  },
  { type: 'numeric(20,5)', values: ['0', '123456789012345.12345', '-0.00001', `'NaN'`] },
  { type: 'text', values: TEXTS },
  { type: 'varchar', values: TEXTS },
  { type: 'varchar(12)', values: [`'zqrow'`, `''`, `'zqrow  '`, `'zqrow ééééé'`] },
  { type: 'char(9)', values: [`'zqrow'`, `''`, `'zqrow é  '`] },
  { type: 'bpchar', values: [`'zqrow'`, `'zqrow   '`, `''`] },
  { type: 'name', values: [`'zqrow'`, `''`, `repeat('é', 31) || 'z'`] },
  // Before 16 a byte above 127 is printed as it is, which is no UTF-8.
  {
    type: '"char"',
    values: [`'z'`, `''`, `' '`, `E'\\\\'`],
    newer: { since: 16, values: [`E'\\\\377'`, `E'\\\\200'`] },
  },
  {
    type: 'bytea',
    values: [`'\\x'`, `'\\x00'`, `'zqrow'`, `decode(repeat('00ff5c27', 800), 'hex')`],
  },
  {
    type: 'date',
    values: [`'infinity'`, `'-infinity'`, `'4713-01-01 BC'`, `'5874897-12-31'`, `'0001-02-29 BC'`],
  },
  { type: 'time', values: [`'24:00:00'`, `'00:00:00'`, `'23:59:59.999999'`] },
  { type: 'time(2)', values: [`'24:00:00'`, `'12:34:56.78'`] },
  {
    type: 'timetz',
    values: [`'24:00:00+15:59:59'`, `'00:00:00-15:59:59'`, `'12:00:00.000001+00'`],
  },
  {
    type: 'timestamp',
    values: [
      `'infinity'`,
      `'-infinity'`,
      `'4714-11-24 00:00:00 BC'`,
      `'294276-12-31 23:59:59.999999'`,
      `'2024-02-29'`,
    ],
  },
  {
    type: 'timestamptz',
    values: [
      `'infinity'`,
      `'-infinity'`,
      `'4714-11-24 00:00:00+00 BC'`,
      `'294276-12-31 23:59:59.999999+00'`,
      `'2024-10-27 02:30:00+02'`,
      `'2024-10-27 02:30:00+01'`,
      `'1883-11-18 12:03:58 America/New_York'`,
    ],
  },
  { type: 'timestamptz(3)', values: [`'2024-01-01 00:00:00.1239+05:30'`, `'-infinity'`] },
  {
    type: 'interval',
    values: [
      `'1 mon'`,
      `'30 days'`,
      `'720 hours'`,
      `'178000000 years'`,
      `'-178000000 years'`,
      `'1 mon -30 days 00:00:00.000001'`,
      `'2147483647 days'`,
      `'-2147483647:59:59.999999'`,
      `'0'`,
    ],
    newer: { since: 17, values: [`'infinity'`, `'-infinity'`] },
  },
  { type: 'interval day to second(2)', values: [`'1 day 02:03:04.05'`, `'0'`] },
  { type: 'money', values: [`'-92233720368547758.08'`, `'92233720368547758.07'`, `'0'`] },
  { type: 'bit', values: [`B'1'`, `B'0'`] },
  { type: 'bit(67)', values: [`repeat('10', 33) || '1'`, `repeat('0', 67)`] },
  { type: 'varbit', values: [`B''`, `B'1'`, `B'000'`, `repeat('1', 1001)`] },
  {
    type: 'uuid',
    values: [`'00000000-0000-0000-0000-000000000000'`, `'ffffffff-ffff-ffff-ffff-ffffffffffff'`],
  },
  {
    type: 'json',
    values: [
      `'{"zqrow":1, "zqrow" : 1,  "b":"\\u0000"}'`,
      `' [ ] '`,
      `'null'`,
      `'1.0e+0'`,
      `'{"a":{"b":[1,1.0,"é\\ud83d\\ude00"]}}'`,
    ],
  },
  {
    type: 'jsonb',
    values: [
      `'{"zqrow":1,"b":[null,true,1.00,-0.0,"\\t"]}'`,
      `'{}'`,
      `'null'`,
      `'1e100'`,
      `'1.0'`,
      `'1.00'`,
      `jsonb_build_object('zqrow', repeat('z', 5000))`,
    ],
  },
  {
    type: 'jsonpath',
    values: [`'$'`, `'strict $.zqrow[*] ? (@ like_regex "^a" flag "i")'`, `'$."a b" + 1'`],
  },
  {
    type: 'xml',
    values: [
      `'<?xml version="1.0"?><zqrow a="1"/>'`,
      `'zqrow <a/> &lt; é'`,
      `'<!DOCTYPE z [<!ENTITY e "x">]><z>&e;</z>'`,
      `'<a><![CDATA[<zqrow>]]><!-- c --></a>'`,
    ],
  },
  {
    type: 'inet',
    values: [`'::1/64'`, `'192.168.0.1/24'`, `'0.0.0.0/0'`, `'192.168.0.1'`, `'::ffff:1.2.3.4'`],
  },
  { type: 'cidr', values: [`'10.0.0.0/8'`, `'::/0'`, `'192.168.0.0/32'`] },
  { type: 'macaddr', values: [`'08:00:2b:01:02:03'`, `'ff:ff:ff:ff:ff:ff'`] },
  { type: 'macaddr8', values: [`'08:00:2b:01:02:03:04:05'`, `'08:00:2b:ff:fe:01:02:03'`] },
  { type: 'point', values: [`'(NaN,-0)'`, `'(1e300,-Infinity)'`, `'(0.1,0.2)'`] },
  { type: 'line', values: [`'{1,-1,0}'`, `'{0,1,0.5}'`] },
  { type: 'lseg', values: [`'[(0,0),(1,0.1)]'`] },
  { type: 'box', values: [`'(1,1),(-0,0)'`, `'(3,4),(1,2)'`] },
  { type: 'path', values: [`'[(0,0),(1,1)]'`, `'((0,0),(1,1),(2,0))'`] },
  { type: 'polygon', values: [`'((0,0),(1,1),(2,0.1))'`] },
  { type: 'circle', values: [`'<(0,0),1>'`, `'<(1.5,-2),0>'`] },
  { type: 'tsvector', values: [`'zqrow:1A,2B "it''s":3 a\\\\b'`, `''`, `'a:16383'`] },
  { type: 'tsquery', values: [`'zqrow & !b | c:*A <2> d'`, `''`] },
  { type: 'pg_lsn', values: [`'0/0'`, `'FFFFFFFF/FFFFFFFF'`] },
  { type: 'pg_snapshot', values: [`'10:20:10,14,15'`, `'1:1:'`] },
  {
    type: 'txid_snapshot',
    values: [`'10:20:10,14,15'`, `'9223372036854775806:9223372036854775807:'`],
  },
  { type: 'xid', values: [`'0'`, `'4294967295'`] },
  { type: 'xid8', values: [`'0'`, `'18446744073709551615'`] },
  { type: 'cid', values: [`'4294967295'`] },
  { type: 'tid', values: [`'(4294967295,65535)'`, `'(0,1)'`] },
  { type: 'oid', values: ['0', '4294967295'] },
  {
    type: 'regclass',
    values: [`'hell.every_type'`, `'pg_catalog.pg_class'`, `'-'`, `'4294967000'`],
  },
  { type: 'regtype', values: [`'int4'`, `'hell.odd_enum'`, `'timestamp with time zone[]'`, `'-'`] },
  { type: 'regproc', values: [`'hell.only_one'`, `'pg_catalog.cos'`, `'-'`] },
  { type: 'regprocedure', values: [`'pg_catalog.abs(int4)'`, `'hell.only_one(int4)'`, `'-'`] },
  { type: 'regoper', values: [`'pg_catalog.||/'`, `'0'`] },
  { type: 'regoperator', values: [`'pg_catalog.+(int4,int4)'`, `'0'`] },
  { type: 'regconfig', values: [`'pg_catalog.simple'`, `'-'`] },
  { type: 'regdictionary', values: [`'pg_catalog.simple'`, `'-'`] },
  { type: 'regrole', values: [`'pg_monitor'`, `'-'`] },
  { type: 'regnamespace', values: [`'hell'`, `'pg_catalog'`, `'-'`] },
  { type: 'regcollation', values: [`'pg_catalog."C"'`, `'-'`] },
  { type: 'refcursor', values: [`'zqrow'`, `''`] },
  { type: 'oidvector', values: [`'1 2 4294967295'`, `''`] },
  { type: 'int2vector', values: [`'1 -2 32767'`, `''`] },
  { type: 'aclitem', values: [`'=r/pg_monitor'`, `'pg_monitor=arw*/pg_monitor'`] },
  { type: 'int4range', values: [`'empty'`, `'(,)'`, `'[1,5)'`, `'[-2147483648,)'`] },
  { type: 'int8range', values: [`'empty'`, `'[1,9223372036854775807)'`] },
  { type: 'numrange', values: [`'[1.0,2.00)'`, `'[1,2)'`, `'(-Infinity,NaN]'`, `'empty'`] },
  {
    type: 'daterange',
    values: [`'[infinity,infinity]'`, `'[4713-01-01 BC,2024-01-01)'`, `'empty'`],
  },
  { type: 'tsrange', values: [`'["2024-01-01 00:00:00",infinity)'`, `'empty'`] },
  { type: 'tstzrange', values: [`'(-infinity,"2024-01-01 00:00:00+00"]'`, `'empty'`] },
  { type: 'int4multirange', values: [`'{}'`, `'{[1,3),[5,)}'`] },
  { type: 'int8multirange', values: [`'{}'`, `'{(,-5),[5,)}'`] },
  { type: 'nummultirange', values: [`'{[1.0,2.0],(3,4.00]}'`, `'{}'`] },
  { type: 'datemultirange', values: [`'{[2024-01-01,2024-02-01),[infinity,infinity]}'`, `'{}'`] },
  { type: 'tsmultirange', values: [`'{["2024-01-01 00:00:00","2024-01-02 00:00:00")}'`, `'{}'`] },
  { type: 'tstzmultirange', values: [`'{["2024-01-01 00:00:00+00",)}'`, `'{}'`] },
];

/** Types of extensions, which are in schema `ext`. */
export const OF_EXTENSIONS: readonly TypeValues[] = [
  { type: 'ext.citext', values: [`'zqrow'`, `'ZQROW'`, `''`, `'zqrow É'`] },
  { type: 'ext.hstore', values: [`'"zqrow"=>"a\\"b", c=>NULL'`, `''`, `'a=>1,b=>2'`] },
  { type: 'ext.ltree', values: [`'zqrow.a.b'`, `''`, `'A_1.2'`] },
  { type: 'ext.lquery', values: [`'*.zqrow.*{1,3}'`, `'a|b.c@*'`] },
  { type: 'ext.ltxtquery', values: [`'zqrow & !b*@'`] },
  { type: 'ext.cube', values: [`'(1,2),(3,4.5)'`, `'(-0)'`] },
  { type: 'ext.seg', values: [`'1.0 .. 2.00'`, `'<5'`, `'~1.50'`] },
  { type: 'ext.isbn13', values: [`'978-0-393-04002-9'`] },
  { type: 'ext.query_int', values: [`'1&(2|!3)'`] },
];

/** Types of the schema itself. */
export const OWN: readonly TypeValues[] = [
  {
    type: 'hell.odd_enum',
    values: [`'zqrow'`, `'it''s; "odd"'`, `' '`, `'é,{}'`, `''`, `'added'`],
  },
  { type: 'hell.small', values: ['1', '99'] },
  { type: 'hell.int_list', values: [`'{1,2}'`, `'{}'`, `'[-1:1]={1,NULL,3}'`] },
  { type: 'hell.label', values: [`'zqrow'`, `'zqrow Ü'`] },
  { type: 'hell.label_of_label', values: [`'zqrow zqrow'`] },
  {
    type: 'hell.pair',
    values: [`ROW('zqrow', 1)`, `ROW(NULL, NULL)`, `ROW('', NULL)`, `ROW(E'a"b\\\\,(', -1)`],
  },
  {
    type: 'hell.nested',
    values: [
      `ROW(ROW('zqrow', 1)::hell.pair, ARRAY[ROW('zqrow', 2), NULL]::hell.pair[], 'zqrow', '{1}', '[1,3)', 1.50)`,
      `ROW(NULL, '{}', 'é,{}', NULL, 'empty', NULL)`,
    ],
  },
  { type: 'hell.checked_pair', values: [`ROW('zqrow', 5)`] },
  { type: 'hell.text_range', values: [`'[zqrow a,zqrow b)'`, `'empty'`, `'(,"z,""]"]'`] },
  { type: 'hell.text_multirange', values: [`'{[zqrow a,zqrow b),[zqrow c,zqrow d)}'`, `'{}'`] },
  { type: 'hell.float_range', values: [`'[-0,0.1]'`, `'[NaN,NaN]'`] },
];

/** What the types above need. */
export const OWN_TYPES_SQL = `
CREATE TYPE hell.odd_enum AS ENUM ('zqrow', 'it''s; "odd"', ' ', 'é,{}', '');
CREATE DOMAIN hell.small AS int2 CHECK (VALUE BETWEEN 1 AND 99);
CREATE DOMAIN hell.int_list AS int[] CHECK (array_length(VALUE, 1) IS DISTINCT FROM 7);
CREATE DOMAIN hell.label AS text COLLATE "C" DEFAULT 'zqrow: default' NOT NULL CHECK (VALUE LIKE 'zqrow%');
CREATE DOMAIN hell.label_of_label AS hell.label CONSTRAINT "long; enough" CHECK (length(VALUE) > 8);
CREATE TYPE hell.pair AS (t text, gone int, n int);
ALTER TYPE hell.pair DROP ATTRIBUTE gone;
CREATE DOMAIN hell.checked_pair AS hell.pair CHECK ((VALUE).n > 0);
CREATE TYPE hell.nested AS ("One" hell.pair, many hell.pair[], e hell.odd_enum, d hell.int_list, r int4range, "select" numeric(9,2));
CREATE TYPE hell.text_range AS RANGE (subtype = text, collation = "C", multirange_type_name = hell.text_multirange);
CREATE TYPE hell.float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE FUNCTION hell.only_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
`;

/** A value that an enum was given later can be used from the next transaction on only. */
export const ADDED_LABEL_SQL = `ALTER TYPE hell.odd_enum ADD VALUE 'added' BEFORE ' '`;

/** The values of a type on this major, as SQL expressions of it. */
export function valuesOf({ type, values, newer }: TypeValues, major: number): readonly string[] {
  const all = [...values, ...(newer !== undefined && major >= newer.since ? newer.values : [])];
  return all.map((value) => `(${value})::${type}`);
}
