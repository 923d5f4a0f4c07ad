import { isLosslessInUtf8 } from '#src/core/server-encoding.ts';
import { quoteIdentifier, quoteTable } from '#src/core/table.ts';
import { readByteOrderedTypes } from '#src/db/postgres/row-hash/byte-ordered-types.ts';

import { finding } from './checks.ts';
import {
  byOperator,
  type CheckContext,
  describeTable,
  excludeFix,
  field,
  nameOf,
  selectedOids,
} from './context.ts';
import type { Finding } from './finding.ts';

/**
 * Text crosses as UTF8: a source server converts it, and the target holds it as UTF8. So the source's
 * encoding must convert without a loss, and nothing may be counted in bytes.
 */
export async function checkEncoding(context: CheckContext): Promise<readonly Finding[]> {
  const { sourceServer, targetServer } = context;
  const { name, encoding } = sourceServer.database;
  const findings: Finding[] = [];
  if (targetServer.database.encoding !== 'UTF8') {
    findings.push(
      finding(
        'target-encoding',
        `database ${quoteIdentifier(targetServer.database.name)}`,
        `its encoding is ${targetServer.database.encoding}, and only UTF8 holds every character without a change of bytes`,
        byOperator(
          `Make the target with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8', and name that.`,
        ),
      ),
    );
  }
  if (encoding === 'UTF8') return findings;
  const object = `database ${quoteIdentifier(name)}`;
  if (!isLosslessInUtf8(encoding)) {
    findings.push(
      finding(
        'source-encoding',
        object,
        encoding === 'SQL_ASCII'
          ? 'its encoding is SQL_ASCII: nothing says which characters its bytes are'
          : `its encoding is ${encoding}, in which one character may have two forms, which would become one`,
        byOperator('Convert the database to UTF8 first (dump it and restore it into one).'),
      ),
    );
    return findings;
  }
  findings.push(
    finding(
      'encoding-converted',
      object,
      `its encoding is ${encoding}: its text is UTF8 on the target, and a byte that ${encoding} gives no character ends the copy or the stream (SQLSTATE 22P05)`,
    ),
  );
  return [
    ...findings,
    ...(await checkLongNames(context)),
    ...(await checkByteColumns(context)),
    ...(await checkByteOrder(context)),
  ];
}

/** A server cuts a name behind 63 bytes. */
const LONG_NAMES_SQL = `
SELECT kind, name FROM (
  SELECT 'schema' AS kind, nspname::text AS name FROM pg_namespace
  UNION SELECT 'relation', relname FROM pg_class
  UNION SELECT 'column', a.attname FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION SELECT 'type', typname FROM pg_type
  UNION SELECT 'enum label', enumlabel FROM pg_enum
  UNION SELECT 'constraint', conname FROM pg_constraint
  UNION SELECT 'trigger', tgname FROM pg_trigger
  UNION SELECT 'routine', proname FROM pg_proc) AS named
 WHERE octet_length(convert_to(name, 'UTF8')) > 63
 ORDER BY 1, 2`;

async function checkLongNames({ source }: CheckContext): Promise<readonly Finding[]> {
  const rows = await source.query(LONG_NAMES_SQL);
  return rows.map((row) =>
    finding(
      'encoding-name',
      `${field(row, 'kind')} ${quoteIdentifier(field(row, 'name'))}`,
      'its name has more than 63 bytes in UTF8, and the target would cut it',
      byOperator('Give it a shorter name on the source.'),
    ),
  );
}

/** "char" is a byte and name at most 63 of them, whatever characters they are. */
const BYTE_COLUMNS_SQL = `
SELECT n.nspname AS schema, c.relname AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
   AND ('{"\\"char\\"",name}'::regtype[]::oid[] && ARRAY[t.oid, t.typelem, t.typbasetype])
 GROUP BY 1, 2 ORDER BY 1, 2`;

async function checkByteColumns(context: CheckContext): Promise<readonly Finding[]> {
  const rows = await context.source.query(BYTE_COLUMNS_SQL, [selectedOids(context)]);
  return rows.map((row) =>
    finding(
      'encoding-column',
      describeTable(nameOf(row)),
      `${field(row, 'columns')} hold bytes rather than characters (type "char" or name), of which UTF8 may need more`,
      excludeFix(nameOf(row)),
    ),
  );
}

async function checkByteOrder({ source, relations }: CheckContext): Promise<readonly Finding[]> {
  const oids = new Set(
    relations.tables.flatMap(({ columns }) => columns.map((one) => one.typeOid)),
  );
  const ordered = await readByteOrderedTypes(source, oids);
  return relations.tables.flatMap((table) => {
    const columns = table.columns.filter(({ typeOid }) => ordered.has(typeOid));
    if (columns.length === 0) return [];
    const names = columns.map(({ name }) => quoteIdentifier(name)).join(', ');
    return [
      finding(
        'encoding-unverified',
        `table ${quoteTable(table)}`,
        `${names} are copied and followed, but not verified: their text has another order in another encoding`,
      ),
    ];
  });
}
