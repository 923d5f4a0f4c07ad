import { quoteIdentifier, quoteTable, type Table } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { findRefusedWrites, type RefusedWrite } from '#src/shadow/prove-writable.ts';
import { publicationSql } from '#src/shadow/publication.ts';

import { finding } from './checks.ts';
import { byOperator, type CheckContext, describeTable, excludeFix } from './context.ts';
import type { Finding } from './finding.ts';

/**
 * Prove by doing, in transactions that roll back (trap 10), that the publication can be made and that
 * production keeps writing under it (trap 7). In batches, so that the locks are few and short: each
 * blocks VACUUM and DDL on its tables for some milliseconds, and gives way after LOCK_TIMEOUT_MS.
 */
export async function checkPublication(
  context: CheckContext,
  /** Tables that other findings refuse already. */
  refused: ReadonlySet<string>,
): Promise<readonly Finding[]> {
  const tables = context.relations.tables.filter((table) => !refused.has(describeTable(table)));
  const whole = tables.filter((table) => !isFiltered(table));
  const findings: Finding[] = [];
  for (let at = 0; at < whole.length; at += BATCH_TABLES) {
    findings.push(...(await proveBatch(context, whole.slice(at, at + BATCH_TABLES))));
  }
  // Each by itself, so that the failure is its own; and none while any filter is refused anyway.
  const filtered = [...refused].some((object) => isFilteredObject(context, object))
    ? []
    : tables.filter(isFiltered);
  for (const table of filtered) findings.push(...(await proveBatch(context, [table])));
  return findings;
}

function isFiltered({ rowFilter, excludedColumns }: Table): boolean {
  return rowFilter !== undefined || excludedColumns.length > 0;
}

/** Whether something is refused of a table that a filter names; of a partitioned one, the leaves are meant. */
function isFilteredObject({ selection }: CheckContext, object: string): boolean {
  return [...selection.where, ...selection.excludeColumns].some(
    (filter) => describeTable(filter) === object,
  );
}

const BATCH_TABLES = 200;
const LOCK_TIMEOUT_MS = 500;
/** Never commits, so its name only has to differ from those that exist. */
const PROBE_NAME = 'understudy_check_probe';
/** invalid_column_reference: the filter, or what the column list leaves, does not suit the replica identity. */
const INVALID_REFERENCE = '42P10';
const LOCK_NOT_AVAILABLE = '55P03';

class RollBack extends Error {
  readonly refused: readonly RefusedWrite[];
  constructor(refused: readonly RefusedWrite[]) {
    super('roll back');
    this.refused = refused;
  }
}

async function proveBatch(
  { source }: CheckContext,
  tables: readonly Table[],
): Promise<readonly Finding[]> {
  try {
    return await source.transaction(async () => {
      await source.query(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'`);
      await source.query(publicationSql(PROBE_NAME, tables));
      throw new RollBack(await findRefusedWrites(source, tables));
    });
  } catch (error) {
    if (error instanceof RollBack) return error.refused.map(describeRefused);
    if (!(error instanceof OperatorError) || sqlstateOf(error) === undefined) throw error;
    return [describeFailure(tables, error)];
  }
}

function describeFailure(tables: readonly Table[], error: OperatorError): Finding {
  const object =
    tables.length === 1 && tables[0] !== undefined
      ? describeTable(tables[0])
      : `${tables.length} tables`;
  return sqlstateOf(error) === LOCK_NOT_AVAILABLE
    ? finding(
        'publication-unproven',
        object,
        'another session holds a lock, so it could not be proven that a publication does no harm; clone proves it again',
      )
    : tables.some(isFiltered)
      ? finding(
          'filter-invalid',
          object,
          `a publication with its filter cannot be made: ${error.message}`,
          byOperator('Write another filter, or clone without --follow.'),
        )
      : finding(
          'publication-fails',
          object,
          `a publication cannot be made: ${error.message}`,
          byOperator('Remove what the message names, then check again.'),
        );
}

function describeRefused({ table, kind, sqlstate }: RefusedWrite): Finding {
  if (isFiltered(table) && sqlstate === INVALID_REFERENCE) return describeUnsafe(table, kind);
  return finding(
    'publication-unsafe',
    describeTable(table),
    `${kind} on ${quoteTable(table)} would fail on the source once it is published (SQLSTATE ${sqlstate})`,
    excludeFix(table),
  );
}

function describeUnsafe(table: Table, kind: RefusedWrite['kind']): Finding {
  const name = quoteTable(table);
  const would = `${kind} on ${name} would fail on the source once it is published`;
  if (table.excludedColumns.length > 0 && table.replicaIdentity === 'f') {
    return finding(
      'filter-unsafe',
      describeTable(table),
      `it has REPLICA IDENTITY FULL, of which no column may be excluded: ${would}`,
      byOperator('Give it a replica identity of some columns, or take the --exclude-column back.'),
    );
  }
  const key = table.key.map(quoteIdentifier).join(', ');
  return finding(
    'filter-unsafe',
    describeTable(table),
    `its row filter looks at more than its replica identity (${key}): ${would}`,
    byOperator(
      `Filter by the replica identity alone, clone without --follow, or run ALTER TABLE ${name} REPLICA IDENTITY FULL on the source, which writes whole old rows to its WAL.`,
    ),
  );
}
