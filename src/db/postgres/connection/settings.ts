/**
 * The settings of every session of ours, the walsender's too (trap 6): a role or database may have
 * others, and then the same value has another text. Sent as startup options, so that there is no
 * moment without them.
 */
export const PINNED_SETTINGS: Readonly<Record<string, string>> = {
  client_encoding: 'UTF8',
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  timezone: 'UTC',
  extra_float_digits: '3',
  bytea_output: 'hex',
  lc_monetary: 'C',
  xmloption: 'content',
  // What we were told is committed we do not do again, so it must survive a crash of the server.
  synchronous_commit: 'local',
  // A row filter is one text that must mean one thing in every session, and be deparsed to one.
  standard_conforming_strings: 'on',
  transform_null_equals: 'off',
  quote_all_identifiers: 'off',
  // Off would read a NULL in the text of an array as the word.
  array_nulls: 'on',
  search_path: '',
  // Hidden rows must be an error, in the copy and in the verification alike (trap 5).
  row_security: 'off',
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '0',
  idle_session_timeout: '0',
  // A vanished client must give its locks and its lease back within half a minute.
  tcp_keepalives_idle: '10',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
};

/**
 * One timeout came with 17 and older servers refuse it at startup: it would end a copy, a held snapshot
 * and a verification alike. Harmless on every version.
 */
export const PIN_LATE_SETTINGS = `SELECT pg_catalog.set_config(name, '0', false)
  FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'`;

/** The value of the startup parameter `options`: `-c name=value …` with the escapes that libpq defines. */
export function startupOptions(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `-c ${name}=${value.replaceAll(/[\\ ]/g, (char) => `\\${char}`)}`)
    .join(' ');
}
