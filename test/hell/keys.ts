import { type Item, pick, type Turn } from './item.ts';

/**
 * A table for each type that can be a key. What matters is what equals what: `=` of a type may call
 * values equal that differ in their text, and a key may be changed to such a value.
 */
type KeyType = {
  readonly type: string;
  readonly since?: number;
  /** Not equal to each other. */
  readonly values: readonly string[];
  /** Pairs that are equal and differ all the same. */
  readonly respelt?: readonly (readonly [string, string])[];
};

const KEYS: readonly KeyType[] = [
  { type: 'bool', values: ['true', 'false'] },
  { type: 'int2', values: ['-32768', '0', '32767'] },
  {
    type: 'int8',
    values: ['-9223372036854775808', '0', '9007199254740993', '9223372036854775807'],
  },
  {
    type: 'numeric',
    values: [`'NaN'`, `'Infinity'`, '1.0', '2', '0'],
    respelt: [
      ['1.0', '1.000'],
      ['1.000', '1'],
      ['2', '2.00'],
    ],
  },
  {
    type: 'float8',
    values: [`'NaN'`, `'Infinity'`, '0', '0.1'],
    respelt: [
      ['0', `'-0'`],
      [`'-0'`, '0'],
    ],
  },
  { type: 'float4', values: [`'NaN'`, '0.1', '1e10'], respelt: [['0', `'-0'`]] },
  {
    type: 'interval',
    values: [`'1 mon'`, `'1 day'`, `'-1 year'`],
    respelt: [
      [`'1 mon'`, `'30 days'`],
      [`'30 days'`, `'720 hours'`],
    ],
  },
  {
    type: 'text',
    values: [`'zqrow'`, `'zqrow '`, `''`, `'ZQROW'`, `E'zqrow\\n\\\\'`, `'zqrow é'`],
  },
  { type: 'text COLLATE "C"', values: [`'zqrow'`, `''`, `U&'zqrow e\\0301'`, `U&'zqrow \\00E9'`] },
  {
    type: 'text COLLATE hell.any_case',
    values: [`'zqrow a'`, `'zqrow b'`, `'zqrow é'`],
    respelt: [
      [`'zqrow a'`, `'ZQROW A'`],
      [`'zqrow b'`, `'zqrow B'`],
    ],
  },
  { type: 'varchar(20)', values: [`'zqrow'`, `'zqrow '`, `''`] },
  { type: 'char(10)', values: [`'zqrow'`, `'zqrow é'`, `''`] },
  { type: 'name', values: [`'zqrow'`, `'zqrow "n"'`] },
  { type: '"char"', values: [`'a'`, `'b'`, `''`] },
  {
    type: 'ext.citext',
    values: [`'zqrow a'`, `'zqrow b'`, `''`],
    respelt: [
      [`'zqrow a'`, `'ZQROW a'`],
      [`'ZQROW a'`, `'zqrow A'`],
    ],
  },
  { type: 'ext.ltree', values: [`'zqrow.a'`, `'zqrow'`, `'A.b'`] },
  { type: 'ext.hstore', values: [`'zqrow=>1'`, `''`, `'a=>NULL'`] },
  { type: 'bytea', values: [`'\\x'`, `'\\x00'`, `'zqrow'`] },
  {
    type: 'uuid',
    values: [`'00000000-0000-0000-0000-000000000000'`, `'ffffffff-ffff-ffff-ffff-ffffffffffff'`],
  },
  { type: 'date', values: [`'infinity'`, `'4713-01-01 BC'`, `'2024-01-01'`] },
  { type: 'time', values: [`'24:00:00'`, `'00:00:00'`] },
  { type: 'timetz', values: [`'12:00:00+00'`, `'13:00:00+01'`, `'24:00:00-15:59'`] },
  { type: 'timestamp', values: [`'-infinity'`, `'2024-01-01 00:00:00.000001'`] },
  {
    type: 'timestamptz',
    values: [`'infinity'`, `'4714-11-24 00:00:00+00 BC'`, `'2024-01-01 12:00+02'`],
  },
  { type: 'money', values: [`'1.00'`, `'-92233720368547758.08'`] },
  { type: 'bit(3)', values: [`B'000'`, `B'101'`] },
  { type: 'varbit', values: [`B''`, `B'0'`, `B'00'`] },
  { type: 'inet', values: [`'1.2.3.4'`, `'1.2.3.4/24'`, `'::1'`] },
  { type: 'cidr', values: [`'10.0.0.0/8'`, `'10.0.0.0/16'`] },
  { type: 'macaddr', values: [`'08:00:2b:01:02:03'`, `'ff:ff:ff:ff:ff:ff'`] },
  { type: 'macaddr8', values: [`'08:00:2b:01:02:03:04:05'`, `'08:00:2b:ff:fe:01:02:03'`] },
  {
    type: 'jsonb',
    values: [`'{"zqrow": 1}'`, `'[]'`, `'null'`, `'1.0'`],
    respelt: [
      [`'1.0'`, `'1.00'`],
      [`'{"zqrow": 1}'`, `'{"zqrow": 1.0}'`],
    ],
  },
  { type: 'tsvector', values: [`'zqrow:1'`, `''`] },
  { type: 'pg_lsn', values: [`'0/0'`, `'FFFFFFFF/FFFFFFFF'`] },
  { type: 'xid8', values: [`'0'`, `'18446744073709551615'`] },
  { type: 'oid', values: ['0', '4294967295'] },
  { type: 'tid', values: [`'(0,1)'`, `'(4294967295,65535)'`] },
  { type: 'oidvector', values: [`'1 2'`, `''`] },
  { type: 'hell.odd_enum', values: [`'zqrow'`, `'it''s; "odd"'`, `''`] },
  { type: 'hell.small', values: ['1', '99'] },
  { type: 'hell.label', values: [`'zqrow a'`, `'zqrow b'`] },
  { type: 'hell.pair', values: [`ROW('zqrow', 1)`, `ROW(NULL, NULL)`, `ROW('', NULL)`] },
  { type: 'int[]', values: [`'{}'`, `'{1,NULL}'`, `'[0:1]={1,2}'`, `'{1,2}'`] },
  {
    type: 'numeric[]',
    values: [`'{1.0}'`, `'{}'`],
    respelt: [
      [`'{1.0}'`, `'{1.00}'`],
      [`'{1.00}'`, `'{1}'`],
    ],
  },
  { type: 'text[]', values: [`'{zqrow,NULL}'`, `'{"NULL"}'`] },
  { type: 'int4range', values: [`'empty'`, `'(,)'`, `'[1,5)'`] },
  { type: 'numrange', values: [`'[1.0,2]'`, `'empty'`], respelt: [[`'[1.0,2]'`, `'[1,2.0]'`]] },
  { type: 'int4multirange', values: [`'{}'`, `'{[1,3),[5,)}'`] },
];

export function keyItems(major: number): readonly Item[] {
  return KEYS.filter(({ since = 0 }) => major >= since).map(keyItem);
}

/** What `=` must not be needed for: the types' operators are not on our search_path. */
export const KEY_TYPES_SQL = `
CREATE COLLATION hell.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);`;

function keyItem({ type, values, respelt = [] }: KeyType, place: number): Item {
  const table = `hell.key_${place}`;
  const [base = ''] = type.split(' COLLATE');
  const of = (value: string): string => `(${value})::${base}`;
  const insert = (value: string, salt: string): string =>
    `INSERT INTO ${table} SELECT ${of(value)}, '${salt}', 0 WHERE NOT EXISTS (SELECT FROM ${table} WHERE k ${equals(base)} ${of(value)})`;
  return {
    name: `key of type ${type}`,
    sql: `
CREATE TABLE ${table} (k ${type} PRIMARY KEY, v text, n int);
COMMENT ON TABLE ${table} IS 'its key is ${type.replaceAll("'", "''")}';
${values.map((value) => `INSERT INTO ${table} VALUES (${of(value)}, 'zqrow', 0);`).join('\n')}`,
    changes: [
      ({ random, salt }) => {
        const [from, to] = [pick(values, random), pick(values, random)];
        return [
          `UPDATE ${table} SET n = n + 1, v = '${salt}' WHERE k ${equals(base)} ${of(from)}`,
          // To a key that is free, if it is.
          `UPDATE ${table} SET k = ${of(to)} WHERE k ${equals(base)} ${of(from)} AND NOT EXISTS (SELECT FROM ${table} WHERE k ${equals(base)} ${of(to)})`,
        ];
      },
      ({ random, salt }) => {
        const value = pick(values, random);
        const gone = `DELETE FROM ${table} WHERE k ${equals(base)} ${of(value)}`;
        return random() < 0.5 ? [gone] : [gone, insert(value, salt)];
      },
      ({ random, salt }) => [insert(pick(values, random), salt)],
      ...(respelt.length === 0
        ? []
        : [
            ({ random, salt }: Turn) => {
              const [from, to] = pick(respelt, random);
              return [
                insert(from, salt),
                `UPDATE ${table} SET k = ${of(to)} WHERE k ${equals(base)} ${of(from)}`,
                `UPDATE ${table} SET n = n + 1 WHERE k ${equals(base)} ${of(to)}`,
                ...(random() < 0.5
                  ? [`DELETE FROM ${table} WHERE k ${equals(base)} ${of(from)}`, insert(from, salt)]
                  : []),
              ];
            },
          ]),
    ],
  };
}

function equals(type: string): string {
  return type.startsWith('ext.') ? 'OPERATOR(ext.=)' : '=';
}
