import type { Column } from './table.ts';

/**
 * Built-in base types whose binary form is the same on every server of 14 to 18 and names nothing that
 * differs between servers. Left out on purpose: reg*, oid and their vectors (their numbers mean another
 * object on the target, trap 5); xml and money (read under the settings of the receiver); the text
 * search types, ranges and internal types (their text is safe and they are rare).
 */
const SAFE_TYPES: ReadonlySet<string> = new Set([
  'bool',
  'int2',
  'int4',
  'int8',
  'float4',
  'float8',
  'numeric',
  'text',
  'varchar',
  'bpchar',
  'char',
  'name',
  'bytea',
  'date',
  'time',
  'timetz',
  'timestamp',
  'timestamptz',
  'interval',
  'uuid',
  'json',
  'jsonb',
  'inet',
  'cidr',
  'macaddr',
  'macaddr8',
  'bit',
  'varbit',
  'point',
  'line',
  'lseg',
  'box',
  'path',
  'polygon',
  'circle',
  'pg_lsn',
]);

/**
 * Whether the column's values may cross in binary, in COPY and in the change stream alike.
 *
 * An enum's binary form is its label, so a scalar enum is safe. An array carries its element type's OID,
 * which is fixed for built-in types only; a composite carries those of its fields.
 */
export function isBinarySafe(
  column: Pick<Column, 'typeKind' | 'elementOid' | 'builtinType'>,
): boolean {
  if (column.typeKind === 'e') return true;
  if (column.typeKind !== 'b' || column.builtinType === undefined) return false;
  if (column.elementOid === 0) return SAFE_TYPES.has(column.builtinType);
  // The array type of int4 is named _int4.
  return column.builtinType.startsWith('_') && SAFE_TYPES.has(column.builtinType.slice(1));
}
