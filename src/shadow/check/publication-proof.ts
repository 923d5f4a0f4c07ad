import { quoteTable, type Table } from '#src/core/table.ts';
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
  const findings: Finding[] = [];
  for (let at = 0; at < tables.length; at += BATCH_TABLES) {
    findings.push(...(await proveBatch(context, tables.slice(at, at + BATCH_TABLES))));
  }
  return findings;
}

const BATCH_TABLES = 200;
const LOCK_TIMEOUT_MS = 500;
/** Never commits, so its name only has to differ from those that exist. */
const PROBE_NAME = 'understudy_check_probe';
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
    : finding(
        'publication-fails',
        object,
        `a publication cannot be made: ${error.message}`,
        byOperator('Remove what the message names, then check again.'),
      );
}

function describeRefused({ table, kind, sqlstate }: RefusedWrite): Finding {
  return finding(
    'publication-unsafe',
    describeTable(table),
    `${kind} on ${quoteTable(table)} would fail on the source once it is published (SQLSTATE ${sqlstate})`,
    excludeFix(table),
  );
}
