import type { OwnersPolicy } from '#src/core/schema-owners.ts';
import { exactPattern } from '#src/core/selection-pattern.ts';
import type { Selection } from '#src/core/selection.ts';
import { quoteTable, type TableName } from '#src/core/table.ts';
import type { SelectedRelations } from '#src/db/postgres/catalog/catalog.ts';
import type { Server } from '#src/db/postgres/catalog/server.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';

import type { Finding, Fix } from './finding.ts';

/** What a group of checks may look at. It may change nothing (trap 10). */
export type CheckContext = {
  readonly source: Session;
  readonly target: Session;
  readonly sourceServer: Server;
  readonly targetServer: Server;
  readonly selection: Selection;
  readonly relations: SelectedRelations;
  readonly isFollowed: boolean;
  readonly sourceWalBytesMax: number;
  readonly owners: OwnersPolicy;
  /** Whether event triggers on the source are asked for. */
  readonly ddlTriggers?: boolean | undefined;
  readonly ages: TransactionAges;
  /** The shadow of this source and selection that the target has already. */
  readonly resumedShadowId: string | undefined;
  /** The tables that it follows, when its definitions are on the target; see resumed.ts. */
  readonly followedOids: ReadonlySet<number> | undefined;
  /** Else the one of this source and these tables with other filters. */
  readonly otherShadowId: string | undefined;
};

/** How old a write transaction of the source may be before it is an obstacle to a new slot. */
export type TransactionAges = { readonly openSMax: number; readonly preparedSMax: number };

export type CheckGroup = (context: CheckContext) => Promise<readonly Finding[]>;

export function describeTable(table: TableName): string {
  return `table ${quoteTable(table)}`;
}

/** Leave a table out of the dataset: the fix that touches neither side. */
export function excludeFix(table: TableName): Fix {
  return { runOn: 'command', text: `--exclude '${exactPattern(table).replaceAll("'", `'\\''`)}'` };
}

export function onSource(text: string): Fix {
  return { runOn: 'source', text };
}

export function onTarget(text: string): Fix {
  return { runOn: 'target', text };
}

export function byOperator(text: string): Fix {
  return { runOn: 'operator', text };
}

/** The oids of the selected tables and their partitioned ancestors, as a parameter. */
export function selectedOids({ relations }: CheckContext): readonly string[] {
  return [...relations.tables, ...relations.partitioned].map(({ oid }) => String(oid));
}

/** A column that the query never leaves NULL. */
export function field(row: Row, column: string): string {
  return row[column] ?? '';
}

/** The name of a table from the columns `schema` and `name`. */
export function nameOf(row: Row): TableName {
  return { schema: field(row, 'schema'), name: field(row, 'name') };
}
