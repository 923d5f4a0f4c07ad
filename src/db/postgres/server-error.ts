import { DatabaseError } from 'pg';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONNECT_CODES: Readonly<Record<string, ErrorCode>> = {
  '28000': 'AUTHENTICATION_FAILED', // invalid_authorization_specification
  '28P01': 'AUTHENTICATION_FAILED', // invalid_password
  '3D000': 'DATABASE_MISSING', // invalid_catalog_name
};

const LOST_SQLSTATES = new Set(['57P01', '57P02', '57P03', '08006', '08003', '08000']);

/** Why a connection could not be made, as an OperatorError. */
export function connectionError(endpoint: Endpoint, cause: unknown): OperatorError {
  if (cause instanceof OperatorError) return cause;
  const where = describeEndpoint(endpoint);
  if (cause instanceof DatabaseError) {
    const code = CONNECT_CODES[cause.code ?? ''] ?? 'CONNECTION_FAILED';
    // A connection's own refusal names roles and databases, never rows.
    return new OperatorError(code, `${where} refused the connection: ${cause.message}`, {
      detail: { sqlstate: cause.code ?? '' },
      cause,
    });
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new OperatorError('CONNECTION_FAILED', `cannot reach ${where}: ${reason}`, { cause });
}

/**
 * A refused statement as an OperatorError. The server's DETAIL and CONTEXT carry row values and are
 * left out (trap 21, I14); so is `cause`, which would bring them back into a log.
 */
export function statementError(
  endpoint: Endpoint,
  sql: string,
  error: DatabaseError,
): OperatorError {
  const sqlstate = error.code ?? '';
  const code: ErrorCode = LOST_SQLSTATES.has(sqlstate)
    ? 'CONNECTION_LOST'
    : sqlstate === '42501'
      ? 'PRIVILEGE_MISSING'
      : 'STATEMENT_FAILED';
  const start = sql.trim().split(/\s+/).slice(0, 8).join(' ').slice(0, 120);
  return new OperatorError(
    code,
    `${describeEndpoint(endpoint)} refused \`${start}\`: ${safeMessage(error)}`,
    { detail: { sqlstate } },
  );
}

/** Data exceptions and constraint failures quote values in the primary message, so only their names are kept. */
function safeMessage(error: DatabaseError): string {
  const sqlstate = error.code ?? '';
  if (!sqlstate.startsWith('22') && !sqlstate.startsWith('23')) return error.message;
  const object = [error.schema, error.table, error.column, error.constraint]
    .filter((name) => name !== undefined)
    .join('.');
  return `SQLSTATE ${sqlstate}${object === '' ? '' : ` on ${object}`}`;
}

/** The SQLSTATE of a failure that came from a server, or undefined. */
export function sqlstateOf(error: unknown): string | undefined {
  if (!(error instanceof OperatorError)) return undefined;
  const sqlstate = error.detail['sqlstate'];
  return typeof sqlstate === 'string' && sqlstate !== '' ? sqlstate : undefined;
}
