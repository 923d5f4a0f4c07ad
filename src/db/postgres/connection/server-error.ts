import { DatabaseError } from 'pg';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';

import { type ErrorText, safeMessage } from './safe-message.ts';

/** What both kinds of connection know of a server's error; our ServerMessage is one. */
export type ServerError = ErrorText & { readonly severity: string | undefined };

/** That of `pg`. */
export function driverError(error: DatabaseError): ServerError {
  return {
    message: error.message,
    code: error.code,
    severity: error.severity,
    schema: error.schema,
    table: error.table,
    column: error.column,
    constraint: error.constraint,
    routine: error.routine,
    hasContext: error.where !== undefined,
    isOfInnerStatement: error.internalQuery !== undefined,
  };
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONNECT_CODES: Readonly<Record<string, ErrorCode>> = {
  '28000': 'AUTHENTICATION_FAILED', // invalid_authorization_specification
  '28P01': 'AUTHENTICATION_FAILED', // invalid_password
  '3D000': 'DATABASE_MISSING', // invalid_catalog_name
  '42501': 'PRIVILEGE_MISSING', // insufficient_privilege: CONNECT, or REPLICATION for a walsender
};

/** Errors that end the connection, whatever severity a library passes on. */
const LOST_SQLSTATES = new Set([
  '08000', // connection_exception
  '08003', // connection_does_not_exist
  '08006', // connection_failure
  '25P03', // idle_in_transaction_session_timeout
  '25P04', // transaction_timeout
  '57P01', // admin_shutdown
  '57P02', // crash_shutdown
  '57P03', // cannot_connect_now
  '57P04', // database_dropped
  '57P05', // idle_session_timeout
]);

/** Why a connection could not be made, as an OperatorError. */
export function connectionError(endpoint: Endpoint, cause: unknown): OperatorError {
  if (cause instanceof OperatorError) return cause;
  if (cause instanceof DatabaseError) return refusalError(endpoint, driverError(cause));
  const where = describeEndpoint(endpoint);
  const reason = describeNetworkError(cause);
  if (networkCode(cause).startsWith('ERR_SSL')) {
    return new OperatorError('TLS_FAILED', `${where} ended TLS: ${reason}`, { cause });
  }
  return new OperatorError('CONNECTION_FAILED', `cannot reach ${where}: ${reason}`, { cause });
}

/** The server's own refusal of a connection; it names roles and databases, never rows. */
export function refusalError(endpoint: Endpoint, error: ServerError): OperatorError {
  const sqlstate = error.code ?? '';
  return new OperatorError(
    CONNECT_CODES[sqlstate] ?? 'CONNECTION_FAILED',
    `${describeEndpoint(endpoint)} refused the connection: ${error.message}`,
    { detail: { sqlstate } },
  );
}

export function lostError(endpoint: Endpoint, cause?: unknown): OperatorError {
  if (cause instanceof OperatorError) return cause;
  const reason = cause === undefined ? '' : `: ${describeNetworkError(cause)}`;
  return new OperatorError(
    'CONNECTION_LOST',
    `connection to ${describeEndpoint(endpoint)} was lost${reason}`,
    { cause },
  );
}

/**
 * A refused statement as an OperatorError. The server's DETAIL and CONTEXT carry row values and are left
 * out (trap 21, I14), and so do many messages; so is `cause`, which would bring them back into a log.
 */
export function statementError(endpoint: Endpoint, sql: string, error: ServerError): OperatorError {
  const sqlstate = error.code ?? '';
  const start = sql.trim().split(/\s+/).slice(0, 8).join(' ').slice(0, 120);
  return new OperatorError(
    statementCode(error),
    `${describeEndpoint(endpoint)} refused \`${start}\`: ${safeMessage(error)}`,
    { detail: { sqlstate } },
  );
}

function statementCode(error: ServerError): ErrorCode {
  const sqlstate = error.code ?? '';
  const isFatal = error.severity === 'FATAL' || error.severity === 'PANIC';
  if (isFatal || LOST_SQLSTATES.has(sqlstate)) return 'CONNECTION_LOST';
  return sqlstate === '42501' ? 'PRIVILEGE_MISSING' : 'STATEMENT_FAILED';
}

/** The SQLSTATE of a failure that came from a server, or undefined. */
export function sqlstateOf(error: unknown): string | undefined {
  if (!(error instanceof OperatorError)) return undefined;
  const sqlstate = error.detail['sqlstate'];
  return typeof sqlstate === 'string' && sqlstate !== '' ? sqlstate : undefined;
}

/** Several addresses of one host fail as an AggregateError without a message of its own. */
function describeNetworkError(cause: unknown): string {
  if (cause instanceof AggregateError) return cause.errors.map(describeNetworkError).join('; ');
  return cause instanceof Error && cause.message !== '' ? cause.message : String(cause);
}

function networkCode(cause: unknown): string {
  return cause instanceof Error && 'code' in cause ? String(cause.code) : '';
}
