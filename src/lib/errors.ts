/** What the supervisor does next. The thrower knows best, so the catalog says it once per code. */
type OnError = 'retry' | 'resnapshot' | 'halt';

/** The exit codes of the command; README.md and docs/errors.md promise them. */
export const EXIT_CODES = {
  ok: 0,
  failed: 1,
  refused: 2,
  different: 3,
  late: 4,
  interrupted: 130,
} as const;

/** Every failure that an operator can meet. docs/errors.md covers exactly these codes; a test says so. */
const CATALOG = {
  CONFIG_INVALID: {
    onError: 'halt',
    hint: 'Correct the option or the file; every command prints its options with --help.',
  },
  CONNECTION_FAILED: {
    onError: 'retry',
    hint: 'Check host, port and firewall, and that the server is running.',
  },
  CONNECTION_LOST: {
    onError: 'retry',
    hint: 'Run the command again: it resumes where it was.',
  },
  AUTHENTICATION_FAILED: {
    onError: 'halt',
    hint: 'Check user and password (URL, PGPASSWORD, ~/.pgpass or env:NAME) and pg_hba.conf.',
  },
  TLS_FAILED: {
    onError: 'halt',
    hint: 'Check sslmode, sslrootcert, sslcert and sslkey; they mean what they mean in libpq.',
  },
  DATABASE_MISSING: {
    onError: 'halt',
    hint: 'Create the database, or correct its name in the URL.',
  },
  PRIVILEGE_MISSING: {
    onError: 'halt',
    hint: 'Run `understudy check`: it prints the GRANT statements that are missing.',
  },
  STATEMENT_FAILED: {
    onError: 'halt',
    hint: 'The server refused a statement; the message names it and its SQLSTATE.',
  },
  PREFLIGHT_REFUSED: {
    onError: 'halt',
    hint: 'Run `understudy check` with the same options and apply the fixes that it prints.',
  },
  SELECTION_EMPTY: {
    onError: 'halt',
    hint: 'Patterns are those of pg_dump (schema.table, * and ?); quote names with capitals.',
  },
  SCHEMA_DUMP_FAILED: {
    onError: 'halt',
    hint: 'The role must be able to read every selected table; the message is that of pg_dump.',
  },
  SCHEMA_RESTORE_FAILED: {
    onError: 'halt',
    hint: 'The target refused a definition; create what it names there, then run again.',
  },
  TARGET_NOT_EMPTY: {
    onError: 'halt',
    hint: 'Use an empty database, or `understudy drop` the earlier shadow and remove its tables.',
  },
  SNAPSHOT_LOST: {
    onError: 'resnapshot',
    hint: 'Nothing to do: unfinished tables are copied again from a new snapshot.',
  },
  TABLE_REWRITTEN: {
    onError: 'resnapshot',
    hint: 'The table was rewritten or truncated while it was copied; it is copied again.',
  },
  COPY_MISMATCH: {
    onError: 'halt',
    hint: 'Source and target disagree on the rows of a part; report this with both versions.',
  },
  SLOT_LOST: {
    onError: 'resnapshot',
    hint: 'Run `understudy drop`, then `clone` again; consider a larger --max-source-wal.',
  },
  SLOT_IN_USE: {
    onError: 'retry',
    hint: 'Another process reads the slot; find it in pg_stat_replication on the source.',
  },
  SLOT_AHEAD: {
    onError: 'resnapshot',
    hint: 'The slot was moved past what the target has: `understudy drop`, then `clone` again.',
  },
  NO_FREE_SLOT: {
    onError: 'halt',
    hint: 'Raise max_replication_slots and max_wal_senders on the source, or drop an unused slot.',
  },
  WAL_LEVEL_TOO_LOW: {
    onError: 'halt',
    hint: 'Set wal_level=logical on the source and restart it.',
  },
  SLOT_BLOCKED: {
    onError: 'retry',
    hint: 'A slot waits for older write transactions; end the one that the message names.',
  },
  PUBLICATION_CHANGED: {
    onError: 'resnapshot',
    hint: 'The publication was dropped or made again: `understudy drop`, then `clone` again.',
  },
  SOURCE_CHANGED: {
    onError: 'halt',
    hint: 'The source is not the server this shadow was made from; check the URL, or re-seed.',
  },
  SOURCE_BEHIND: {
    onError: 'resnapshot',
    hint: 'The source lost what the shadow has: `understudy drop`, then `clone` again.',
  },
  TIMELINE_CHANGED: {
    onError: 'retry',
    hint: 'A standby was promoted; run again: it goes on if the new primary has all it needs.',
  },
  WAL_BUDGET_EXCEEDED: {
    onError: 'resnapshot',
    hint: 'The slot was dropped to protect the source: `understudy drop`, then `clone` again.',
  },
  PROGRESS_LOST: {
    onError: 'resnapshot',
    hint: 'How far the target is cannot be told any more: `understudy drop`, then `clone` again.',
  },
  SPOOL_FULL: {
    onError: 'halt',
    hint: 'Free disk space under the spool folder (--spool) and run again: it resumes.',
  },
  SPOOL_CORRUPT: {
    onError: 'halt',
    hint: 'The spool is damaged before its end; the shadow must be made again.',
  },
  SPOOL_MISSING: {
    onError: 'resnapshot',
    hint: 'Run on the machine that holds the spool folder, or drop the shadow and clone again.',
  },
  SPOOL_UNUSABLE: {
    onError: 'halt',
    hint: 'Check the disk under the spool folder (--spool) and its permissions, then run again.',
  },
  LEDGER_VERSION: {
    onError: 'halt',
    hint: 'Another version of Understudy made it: drop its shadows with that version, or use it.',
  },
  LEASE_HELD: {
    onError: 'halt',
    hint: 'Another process runs this shadow; stop it first (`understudy status` names it).',
  },
  LEASE_LOST: {
    onError: 'halt',
    hint: 'Another process took this shadow over; this one has stopped without effect.',
  },
  TABLE_CHANGED: {
    onError: 'halt',
    hint: 'Make the same change on the target and `understudy resume` it, or `understudy reseed` it; if its first copy was not over, `understudy drop` and `clone` again.',
  },
  ROW_INCOMPLETE: {
    onError: 'halt',
    hint: 'Copy the table again: `understudy reseed --table T`, or drop the shadow and clone again.',
  },
  TABLE_STOPPED: {
    onError: 'halt',
    hint: '`understudy status` says what happened and what it waits for; the others go on.',
  },
  RETURN_REFUSED: {
    onError: 'halt',
    hint: 'Adapt the table on the target and ask again, or `understudy reseed` it.',
  },
  TABLE_DIVERGED: {
    onError: 'halt',
    hint: 'Run `understudy verify --repair`, and find out who else writes to the target.',
  },
  CHANGE_UNSUPPORTED: {
    onError: 'halt',
    hint: 'This kind of change cannot be followed yet; the message names table and kind.',
  },
  TRANSACTION_TOO_LARGE: {
    onError: 'halt',
    hint: 'A single row is larger than the limit that the message names.',
  },
  PROTOCOL_VIOLATION: {
    onError: 'halt',
    hint: 'The peer sent bytes that this version cannot read; report it with both versions.',
  },
  SHADOW_MISSING: {
    onError: 'halt',
    hint: '`understudy status --target URL` lists the shadows that a target knows.',
  },
  FENCE_TIMEOUT: {
    onError: 'retry',
    hint: 'The follower did not reach the fence in time; look at its lag and try again.',
  },
  FOLLOWER_MISSING: {
    onError: 'retry',
    hint: 'Run `understudy clone … --follow`, and this again in another terminal meanwhile.',
  },
  VERIFY_UNSUPPORTED: {
    onError: 'halt',
    hint: 'The hash self-test differs between the servers; report it with both versions.',
  },
  REPAIR_REFUSED: {
    onError: 'halt',
    hint: 'Start the follower (`understudy clone --follow` with the same options), then repair.',
  },
  SERVER_START_FAILED: {
    onError: 'halt',
    hint: 'The message holds what the embedded Postgres printed; the port or folder may be in use.',
  },
} as const satisfies Record<string, { onError: OnError; hint: string }>;

export type ErrorCode = keyof typeof CATALOG;

/** A failure that an operator can act on. Message: what happened to which object, lower case, no advice. */
export class OperatorError extends Error {
  override readonly name = 'OperatorError';
  readonly code: ErrorCode;
  /** Facts that belong in a log line, never row values or secrets (I14). */
  readonly detail: Readonly<Record<string, string | number>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { detail?: Readonly<Record<string, string | number>>; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.code = code;
    this.detail = options.detail ?? {};
  }

  get hint(): string {
    return CATALOG[this.code].hint;
  }

  get onError(): OnError {
    return CATALOG[this.code].onError;
  }
}
