import { safeMessage } from '#src/db/postgres/connection/safe-message.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { ServerMessage } from '#src/wire/postgres/backend.ts';

import type { Expectation } from './apply-pipeline.ts';
import type { ApplyTable } from './apply-table.ts';

/** unique_violation and exclusion_violation: the two that an order can cause. */
const ORDER_SQLSTATES = new Set(['23505', '23P01']);

/**
 * Classes of failures that say nothing of the table which a statement was about: connection, transaction
 * state, our own prepared statements, authorization, rollback (deadlocks), resources, prerequisite state
 * (locks), operator intervention, system, configuration file, internal. Any other is the table's refusal
 * of a row; its triggers may raise whatever they like.
 */
const OTHER_CLASSES = new Set(['08', '25', '26', '28', '40', '53', '55', '57', '58', 'F0', 'XX']);

/** A statement of a pipeline that the server refused; `expectation` says for which table. */
export class RefusedStatement extends Error {
  readonly server: ServerMessage;
  readonly expectation: Expectation | undefined;

  constructor(server: ServerMessage, expectation: Expectation | undefined) {
    super(server.code);
    this.server = server;
    this.expectation = expectation;
  }

  /** Whether it may come from the order that compaction gave the changes. */
  get mayBeOrder(): boolean {
    return ORDER_SQLSTATES.has(this.server.code);
  }

  toOperatorError(): OperatorError {
    const sqlstate = this.server.code;
    const { expectation } = this;
    if (expectation?.kind === 'rows' && !isOtherClass(sqlstate)) {
      const constraint = this.server.constraint;
      const where = constraint === undefined ? '' : `, constraint ${constraint}`;
      const what = `the target refused a row (SQLSTATE ${sqlstate}${where})`;
      return diverged(expectation.table, what, sqlstate);
    }
    const code = sqlstate.startsWith('57') ? 'CONNECTION_LOST' : 'STATEMENT_FAILED';
    return new OperatorError(
      code,
      `the target refused an apply statement: ${safeMessage(this.server)}`,
      { detail: { sqlstate } },
    );
  }
}

export function isOtherClass(sqlstate: string): boolean {
  return OTHER_CLASSES.has(sqlstate.slice(0, 2));
}

export function asOperatorError(error: unknown): never {
  throw error instanceof RefusedStatement ? error.toOperatorError() : error;
}

export function diverged(table: ApplyTable, what: string, sqlstate = ''): OperatorError {
  const name = `${table.name.schema}.${table.name.name}`;
  return new OperatorError('TABLE_DIVERGED', `table ${name} differs from its source: ${what}`, {
    detail: { relation: table.oid, table: name, sqlstate },
  });
}
