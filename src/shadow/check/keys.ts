import { quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { finding } from './checks.ts';
import { type CheckContext, describeTable, excludeFix, onSource, field } from './context.ts';
import type { Finding, Fix } from './finding.ts';

/**
 * A change in the stream names its row by the replica identity. Without one production's own UPDATE
 * would fail on a published table (trap 7), and we could not find the row.
 */
export async function checkKeys(context: CheckContext): Promise<readonly Finding[]> {
  const { source, sourceServer, relations, isFollowed } = context;
  // A copy alone names no row.
  if (!isFollowed) return [];
  const suspects = relations.tables.filter(
    (table) => table.key.length === 0 || generatedIdentity(table, sourceServer.major) !== undefined,
  );
  if (suspects.length === 0) return [];
  const candidates = await readCandidates(source, suspects);
  return suspects.map((table) =>
    describe(table, candidates.get(table.oid) ?? NO_CANDIDATES, sourceServer.major),
  );
}

type Candidates = {
  readonly hasPrimaryKey: boolean;
  readonly isPrimaryKeyDeferrable: boolean;
  /** An index that could be the replica identity, the primary key's own first. */
  readonly index: { readonly name: string; readonly isPrimary: boolean } | undefined;
};

const NO_CANDIDATES: Candidates = {
  hasPrimaryKey: false,
  isPrimaryKeyDeferrable: false,
  index: undefined,
};

/** What REPLICA IDENTITY USING INDEX accepts, without generated columns, which are not in the stream. */
const CANDIDATES_SQL = `
SELECT x.indrelid AS oid, i.relname AS index, x.indisprimary, x.indimmediate,
       x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL AND NOT EXISTS (
         SELECT FROM pg_attribute a
          WHERE a.attrelid = x.indrelid AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])
            AND (NOT a.attnotnull OR a.attgenerated <> '')) AS is_usable
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 WHERE x.indrelid = ANY ($1::oid[]) AND x.indisunique AND x.indisvalid
 ORDER BY x.indisprimary DESC, x.indnkeyatts, i.relname COLLATE "C"`;

async function readCandidates(
  source: Session,
  tables: readonly Table[],
): Promise<ReadonlyMap<number, Candidates>> {
  const rows = await source.query(CANDIDATES_SQL, [tables.map(({ oid }) => String(oid))]);
  return new Map(
    tables.map(({ oid }) => {
      const own = rows.filter((row) => Number(row['oid']) === oid);
      const primary = own.find((row) => row['indisprimary'] === 't');
      const usable = own.find((row) => row['is_usable'] === 't');
      const candidates: Candidates = {
        hasPrimaryKey: primary !== undefined,
        isPrimaryKeyDeferrable: primary?.['indimmediate'] === 'f',
        index:
          usable === undefined
            ? undefined
            : { name: field(usable, 'index'), isPrimary: usable['indisprimary'] === 't' },
      };
      return [oid, candidates];
    }),
  );
}

function describe(table: Table, candidates: Candidates, sourceMajor: number): Finding {
  const object = describeTable(table);
  const fix = fixOf(table, candidates, sourceMajor);
  const generated = generatedIdentity(table, sourceMajor);
  if (generated !== undefined) {
    return finding(
      'generated-key',
      object,
      `its replica identity has the generated column ${quoteIdentifier(generated)}, which is not in the change stream`,
      fix,
    );
  }
  if (table.replicaIdentity === 'f') {
    return finding(
      'identity-full-without-key',
      object,
      'it has REPLICA IDENTITY FULL and no unique index over NOT NULL columns, so its rows are named by all of their values, and each batch with an UPDATE or DELETE of it reads all of the table on the target',
    );
  }
  if (table.replicaIdentity === 'n') {
    return finding(
      'identity-nothing',
      object,
      'it has REPLICA IDENTITY NOTHING, so UPDATE and DELETE would fail on the source once it is published',
      fix,
    );
  }
  if (table.replicaIdentity === 'd' && candidates.isPrimaryKeyDeferrable) {
    return finding(
      'deferrable-key',
      object,
      'its primary key is deferrable and thus no replica identity, so UPDATE and DELETE would fail on the source once it is published',
      fix,
    );
  }
  return finding(
    'no-key',
    object,
    'it has no primary key or other replica identity, so UPDATE and DELETE would fail on the source once it is published',
    fix,
  );
}

/** Without an index that names its rows, all of their values do. */
function fixOf(table: Table, { index }: Candidates, sourceMajor: number): Fix {
  if (index !== undefined) {
    const identity = index.isPrimary ? 'DEFAULT' : `USING INDEX ${quoteIdentifier(index.name)}`;
    return onSource(`ALTER TABLE ${quoteTable(table)} REPLICA IDENTITY ${identity}`);
  }
  const hasGenerated = table.columns.some((column) => column.isGenerated);
  if (hasGenerated && sourceMajor >= WHOLE_IDENTITY_VERSION) return excludeFix(table);
  return onSource(`ALTER TABLE ${quoteTable(table)} REPLICA IDENTITY FULL`);
}

/** From here on UPDATE and DELETE fail on a published table under FULL with generated columns. */
const WHOLE_IDENTITY_VERSION = 18;

function generatedIdentity(table: Table, sourceMajor: number): string | undefined {
  if (table.replicaIdentity === 'f') {
    if (sourceMajor < WHOLE_IDENTITY_VERSION) return undefined;
    return table.columns.find((column) => column.isGenerated)?.name;
  }
  return table.key.find((name) =>
    table.columns.some((column) => column.name === name && column.isGenerated),
  );
}
