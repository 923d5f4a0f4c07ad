import type { Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { readByteOrderedTypes } from './byte-ordered-types.ts';
import { VECTORS } from './row-hash-vectors.ts';
import { type ColumnForm, type Form, formOf, hashExpression } from './row-hash.ts';

/** Which columns of a table are compared, and how; and which cannot be. */
export type RowHashPlan = {
  readonly compared: readonly ColumnForm[];
  /** Names of columns of which the verdict says nothing. */
  readonly unverified: readonly string[];
};

type Sides = { readonly source: Session; readonly target: Session };

/**
 * How the rows of each table (by its OID) are hashed, proven first on both servers with values of every
 * type concerned: equal values must hash alike on both, different ones apart. A type whose form fails is
 * hashed by the md5 of its text, and if that fails too its columns are unverified.
 *
 * Throws VERIFY_UNSUPPORTED when not even text can be compared.
 */
export async function planRowHashes(
  options: Sides & { readonly tables: readonly Table[] },
): Promise<ReadonlyMap<number, RowHashPlan>> {
  const baseTypes = await readBaseTypes(options.source, options.tables);
  const isSameEncoding = (await encodingOf(options.source)) === (await encodingOf(options.target));
  const forms = await provenForms({ ...options, isSameEncoding }, new Set(baseTypes.values()));
  // Their text differs between encodings although the value does not.
  const incomparable = isSameEncoding
    ? new Set<number>()
    : await readByteOrderedTypes(options.source, typesOf(options.tables));
  return new Map(
    options.tables.map((table) => {
      const columns = table.columns.map(({ name, typeOid }) => ({
        column: name,
        form: incomparable.has(typeOid) ? undefined : forms(baseTypes.get(typeOid)),
      }));
      return [
        table.oid,
        {
          compared: columns.flatMap(({ column, form }) =>
            form === undefined ? [] : [{ column, form }],
          ),
          unverified: columns.flatMap(({ column, form }) => (form === undefined ? [column] : [])),
        },
      ];
    }),
  );
}

function typesOf(tables: readonly Table[]): ReadonlySet<number> {
  return new Set(tables.flatMap(({ columns }) => columns.map(({ typeOid }) => typeOid)));
}

/** By type OID, the name of the type (of a domain: of what it is based on) if it is in pg_catalog. */
async function readBaseTypes(
  source: Session,
  tables: readonly Table[],
): Promise<ReadonlyMap<number, string | undefined>> {
  const rows = await source.query(
    `WITH RECURSIVE base (type, oid, typtype, typbasetype) AS (
       SELECT oid, oid, typtype, typbasetype FROM pg_type WHERE oid = ANY ($1::oid[])
       UNION ALL
       SELECT b.type, t.oid, t.typtype, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd')
     SELECT b.type, CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname END AS name
       FROM base b JOIN pg_type t ON t.oid = b.oid WHERE b.typtype <> 'd'`,
    [[...typesOf(tables)].map(String)],
  );
  return new Map(rows.map((row) => [Number(row['type']), row['name'] ?? undefined]));
}

/** The form of a type by its name, or undefined when no form gives the same on both servers. */
type FormByType = (builtinType: string | undefined) => Form | undefined;

async function provenForms(
  sides: Sides & { readonly isSameEncoding: boolean },
  types: ReadonlySet<string | undefined>,
): Promise<FormByType> {
  const { isSameEncoding } = sides;
  const wanted = (type: string | undefined): Form => {
    const form = formOf(type);
    return !isSameEncoding && (form === 'string' || form === 'output') ? 'utf8' : form;
  };
  // Types of users are hashed by their output, which is text.
  const names = new Set(['text', ...types].filter((name) => name !== undefined));
  const tested = [...names].filter((name) => Object.hasOwn(VECTORS, name));
  const native = await agreeing(
    sides,
    tested.map((type) => ({ type, form: wanted(type) })),
  );
  const rest = tested.filter((type) => !native.has(type));
  const byMd5 = await agreeing(
    sides,
    rest.map((type) => ({ type, form: 'md5' as const })),
  );
  const textForm = native.has('text') ? undefined : 'md5';
  if (textForm === 'md5' && !byMd5.has('text')) {
    throw new OperatorError('VERIFY_UNSUPPORTED', 'the servers do not agree on the hash of a text');
  }
  return (type) => {
    if (type === undefined || !tested.includes(type)) return textForm ?? wanted(type);
    if (native.has(type)) return wanted(type);
    return byMd5.has(type) ? 'md5' : undefined;
  };
}

/** The types whose vectors hash alike on both servers, and apart from each other. */
async function agreeing(
  { source, target }: Sides,
  candidates: readonly { readonly type: string; readonly form: Form }[],
): Promise<ReadonlySet<string>> {
  if (candidates.length === 0) return new Set();
  const sql = candidates
    .map(({ type, form }) => `SELECT '${type}' AS type, ${vectorHashes(type, form)} AS hashes`)
    .join(' UNION ALL ');
  const [ours, theirs] = await Promise.all([source.query(sql), target.query(sql)]);
  const theirHashes = new Map(theirs.map((row) => [row['type'], row['hashes']]));
  return new Set(
    ours.flatMap(({ type, hashes }) => {
      const list = hashes?.split(',') ?? [];
      const isApart = new Set(list).size === list.length;
      return isApart && theirHashes.get(type ?? null) === hashes ? [type ?? ''] : [];
    }),
  );
}

function vectorHashes(type: string, form: Form): string {
  const values = [...(VECTORS[type] ?? []), 'NULL'];
  const name = type === 'char' ? '"char"' : type;
  return `concat_ws(',', ${values.map((value) => hashExpression(form, `(${value}::pg_catalog.${name})`, 3)).join(', ')})`;
}

async function encodingOf(session: Session): Promise<string> {
  const [row] = await session.query("SELECT current_setting('server_encoding') AS encoding");
  return row?.['encoding'] ?? '';
}
