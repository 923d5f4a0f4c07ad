import { anyOf, below, type Change, type Item, pick } from './item.ts';
import { BUILT_IN, OF_EXTENSIONS, OWN, type TypeValues, valuesOf } from './literals.ts';

/** Every type as a column and as an array's element: three tables that hold each value once. */
export function typeItems(major: number): readonly Item[] {
  const types = [...BUILT_IN, ...OF_EXTENSIONS, ...OWN];
  return [
    {
      name: 'every type as a column',
      sql: `${tableOf('hell.every_type', scalarColumns(types, major))}
COMMENT ON COLUMN hell.every_type.c0 IS 'bool';`,
      changes: changesOf('hell.every_type', scalarColumns(types, major)),
    },
    {
      name: 'every type as an array, with odd bounds',
      sql: tableOf('hell.every_array', arrayColumns(types, major)),
      changes: changesOf('hell.every_array', arrayColumns(types, major)),
    },
  ];
}

/** Domains that refuse NULL, in an array too. */
const refusesNull = (type: string): boolean => type.startsWith('hell.label');

type Column = { readonly name: string; readonly type: string; readonly values: readonly string[] };

function scalarColumns(types: readonly TypeValues[], major: number): readonly Column[] {
  return types.map((one, i) => ({ name: `c${i}`, type: one.type, values: valuesOf(one, major) }));
}

/** Lower bounds that are not 1, several dimensions, NULLs, none at all. */
function arrayColumns(types: readonly TypeValues[], major: number): readonly Column[] {
  return types.map((one, i) => {
    const values = valuesOf(one, major);
    const [first = '', second = first] = values;
    const array = `${one.type}[]`;
    const nothing = refusesNull(one.type) ? [] : ['NULL'];
    const pair = `ARRAY[${first}, ${second}]::${array}`;
    return {
      name: `c${i}`,
      type: array,
      values: [
        `ARRAY[${[...values, ...nothing].join(', ')}]::${array}`,
        `'{}'::${array}`,
        // What an array prints is read back with other bounds put in front.
        `('[-5:-4]=' || array_out(${pair})::text)::${array}`,
        `('[0:0][3:4]={' || array_out(${pair})::text || '}')::${array}`,
        ...nothing.map((value) => `ARRAY[${value}]::${array}`),
      ],
    };
  });
}

function tableOf(table: string, columns: readonly Column[]): string {
  const rows = Math.max(...columns.map(({ values }) => values.length));
  const definitions = columns.map(({ name, type }) => `${name} ${type}`).join(',\n  ');
  const inserts = Array.from({ length: rows + 1 }, (_, row) => {
    // The last row is all NULL, but for domains that do not take one.
    const values = columns.map(({ values: list, type }) =>
      row === rows && !(refusesNull(type) && !type.endsWith(']'))
        ? 'NULL'
        : list[row % list.length],
    );
    return `INSERT INTO ${table} VALUES (${row}, ${values.join(', ')});`;
  });
  return `
CREATE TABLE ${table} (id int PRIMARY KEY, ${definitions});
${inserts.join('\n')}`;
}

function changesOf(table: string, columns: readonly Column[]): readonly Change[] {
  const set = ({ name, values }: Column, random: () => number): string =>
    `${name} = ${pick(values, random)}`;
  return [
    // A few columns of a row.
    ({ random, salt }) =>
      Array.from({ length: 4 }, (_, i) => {
        const chosen = [pick(columns, random), pick(columns, random)];
        const distinct = chosen.filter((column, at) => chosen.indexOf(column) === at);
        return `UPDATE ${table} SET ${distinct.map((column) => set(column, random)).join(', ')} WHERE id = ${anyOf(table, 'id', `${salt}.${i}`)}`;
      }),
    // All columns of a row.
    ({ random, salt }) => [
      `UPDATE ${table} SET ${columns.map((column) => set(column, random)).join(', ')} WHERE id = ${anyOf(table, 'id', salt)}`,
    ],
    ({ random }) => [
      `INSERT INTO ${table} SELECT max(id) + 1, ${columns.map(({ values }) => pick(values, random)).join(', ')} FROM ${table}`,
      `DELETE FROM ${table} WHERE id = (SELECT min(id) FROM ${table})`,
      `UPDATE ${table} SET id = id + 1000 WHERE id = (SELECT max(id) FROM ${table}) AND id < ${below(2, random)} * 100000`,
    ],
  ];
}
