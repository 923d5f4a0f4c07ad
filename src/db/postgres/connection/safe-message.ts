/**
 * What of a server's error may be told (trap 21, I14). A message may quote a value: that of a conversion or a
 * constraint does, that of a RAISE in a function behind a CHECK, an index or a view may say anything, and
 * extensions say what they like. So what is not known to name objects, settings and numbers only is
 * withheld, and the SQLSTATE told.
 */
export type ErrorText = {
  readonly message: string;
  /** The SQLSTATE. */
  readonly code: string | undefined;
  readonly schema: string | undefined;
  readonly table: string | undefined;
  readonly column: string | undefined;
  readonly constraint: string | undefined;
  /** The function of the server's source that raised it. */
  readonly routine: string | undefined;
  /** Whether it happened in a function, or while a value was converted. */
  readonly hasContext: boolean;
  /** Whether it is about the text of a statement inside of a function. */
  readonly isOfInnerStatement: boolean;
};

/** What functions raise by themselves, with any SQLSTATE and any text: in PL/pgSQL, PL/Python, PL/Tcl and PL/Perl. */
const RAISING_ROUTINES = new Set([
  'exec_stmt_raise',
  'exec_stmt_assert',
  'PLy_elog_impl',
  'PLy_elog',
  'PLy_output',
  'pltcl_elog',
  'do_util_elog',
  'plperl_util_elog',
]);

/**
 * Classes whose messages name objects, settings, limits and files: connection, transaction state, statement
 * name, authorization, rollback, resources, program limit, prerequisite state, operator intervention, system.
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const PLAIN_CLASSES = new Set(['08', '25', '26', '28', '40', '53', '54', '55', '57', '58']);
const INSUFFICIENT_PRIVILEGE = '42501';

/**
 * Classes whose messages quote the name that was looked for, which is a value where a value is converted to
 * a regclass or the like: unsupported feature, dependent objects, catalog, schema, name or syntax, corruption.
 */
const NAMING_CLASSES = new Set(['0A', '2B', '3D', '3F', '42']);
const NAMING_SQLSTATES = new Set(['XX001', 'XX002']);

/** Quotes a piece of the statement, which a function may have made of values. */
const SYNTAX_ERROR = '42601';

/** The message, or the SQLSTATE with what it was about. */
export function safeMessage(error: ErrorText): string {
  if (isPlain(error)) return error.message;
  const { code = '', routine } = error;
  const object = [error.schema, error.table, error.column, error.constraint]
    .filter((name) => name !== undefined)
    .join('.');
  const about = object === '' ? '' : ` on ${object}`;
  // The only trace that an internal error or an extension's leaves.
  const where = code.startsWith('XX') && routine !== undefined ? ` in ${routine}()` : '';
  return `SQLSTATE ${code}${about}${where}`;
}

function isPlain({ code = '', routine = '', hasContext, isOfInnerStatement }: ErrorText): boolean {
  if (RAISING_ROUTINES.has(routine)) return false;
  const sqlclass = code.slice(0, 2);
  if (PLAIN_CLASSES.has(sqlclass) || code === INSUFFICIENT_PRIVILEGE) return true;
  if (!NAMING_CLASSES.has(sqlclass) && !NAMING_SQLSTATES.has(code)) return false;
  return !hasContext || (isOfInnerStatement && code !== SYNTAX_ERROR);
}
