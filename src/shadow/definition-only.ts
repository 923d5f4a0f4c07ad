import type { TableName } from '#src/core/table.ts';
import type { UnsupportedReason, UnsupportedTable } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

/** Tables of a shadow's dataset that have only their definition on the target: nothing follows their rows. */
export type DefinitionOnly = TableName & { readonly reason: string };

/** Put on record what they are now, in the place of what an earlier run found. */
export async function recordDefinitionOnly(
  target: Session,
  shadowId: string,
  tables: readonly UnsupportedTable[],
): Promise<void> {
  await target.transaction(async () => {
    await target.execute('DELETE FROM understudy.definition_only WHERE shadow_id = $1', [shadowId]);
    await target.execute(
      `INSERT INTO understudy.definition_only (shadow_id, source_oid, schema_name, table_name, reason)
       SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[])`,
      [
        shadowId,
        tables.map(({ oid }) => String(oid)),
        tables.map(({ schema }) => schema),
        tables.map(({ name }) => name),
        tables.map(({ reason }) => describeReason(reason)),
      ],
    );
  });
}

export async function readDefinitionOnly(
  target: Session,
  shadowId: string,
): Promise<readonly DefinitionOnly[]> {
  const rows = await target.query(
    `SELECT schema_name, table_name, reason FROM understudy.definition_only
      WHERE shadow_id = $1 ORDER BY schema_name COLLATE "C", table_name COLLATE "C"`,
    [shadowId],
  );
  return rows.map((row) => ({
    schema: row['schema_name'] ?? '',
    name: row['table_name'] ?? '',
    reason: row['reason'] ?? '',
  }));
}

export function describeReason(reason: UnsupportedReason): string {
  switch (reason) {
    case 'unlogged':
      return 'it is unlogged';
    case 'foreign':
      return 'it is a foreign table';
    default:
      return reason satisfies never;
  }
}
