import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { formatLsn, type Lsn, parseLsn } from '#src/core/lsn.ts';
import { quoteIdentifier } from '#src/core/table.ts';
import { limitAnswers } from '#src/db/postgres/connection/answer-limit.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { openReplicationConnection } from './create-slot.ts';
import { identifySystem, readLsn, slotInUse, type SystemIdentity } from './slot.ts';

export type ReplicationStream = AsyncDisposable & {
  /** In CopyBoth: raw frames by `read`, standby status by `write`. */
  readonly connection: WireConnection;
  readonly system: SystemIdentity;
  /** Where the server's flushed WAL ended a moment before; it sends nothing from behind that. */
  readonly headLsn: Lsn;
  /** Whether the transaction at `witnessLsn` comes first. */
  readonly isWitnessed: boolean;
  /** The server ends a connection that sent nothing for so long; 0 is never. */
  readonly walSenderTimeoutMs: number;
};

/**
 * Stream a slot's changes from `startLsn`; 0 is where the slot stands.
 * Protocol 2 is what all of 14 to 18 speak; it streams large transactions before they commit (trap 17).
 * https://www.postgresql.org/docs/current/protocol-logical-replication.html
 *
 * Throws SLOT_IN_USE, SLOT_LOST, SLOT_AHEAD, SOURCE_CHANGED, NO_FREE_SLOT, CONNECTION_FAILED for a
 * standby, CONNECTION_LOST when it does not answer in time, `signal.reason`, or what connecting throws.
 */
export async function startReplication(options: {
  readonly endpoint: Endpoint;
  readonly slot: string;
  readonly publication: string;
  readonly startLsn: Lsn;
  /**
   * The commit record of the newest transaction before `startLsn`: the stream begins with it, unless the slot
   * has confirmed it. A server that was put back to an older state has another transaction there, or none.
   */
  readonly witnessLsn?: Lsn | undefined;
  /** Values in binary form, where both servers have the same. */
  readonly binary: boolean;
  readonly applicationName: string;
  /** The server that the slot was made on; another one is refused before it streams. */
  readonly systemId?: string;
  /** For all answers up to where the stream begins. */
  readonly answerMsMax?: number;
  /** Up to there, too. */
  readonly signal?: AbortSignal;
}): Promise<ReplicationStream> {
  const { endpoint, slot, systemId } = options;
  const connection = await openReplicationConnection(options);
  using _ = limitAnswers(connection, options);
  try {
    const system = await identifySystem(connection);
    if (systemId !== undefined && system.systemId !== systemId) {
      const where = describeEndpoint(endpoint);
      throw new OperatorError(
        'SOURCE_CHANGED',
        `${where} is system ${system.systemId}, not ${systemId}`,
      );
    }
    await refuseStandby(connection, endpoint);
    const walSenderTimeoutMs = await readWalSenderTimeout(connection);
    const { headLsn, confirmed } = await refuseGap(connection, options);
    const { startLsn, witnessLsn } = options;
    const isWitnessed =
      witnessLsn !== undefined && witnessLsn < startLsn && (confirmed ?? startLsn) <= witnessLsn;
    const from = isWitnessed ? witnessLsn : startLsn;
    await connection.beginCopy(startStatement({ ...options, startLsn: from }));
    return {
      connection,
      system,
      headLsn,
      isWitnessed,
      walSenderTimeoutMs,
      [Symbol.asyncDispose]: async () => connection[Symbol.asyncDispose](),
    };
  } catch (error) {
    await connection[Symbol.asyncDispose]();
    options.signal?.throwIfAborted();
    throw startError(error, slot);
  }
}

function startStatement(options: {
  readonly slot: string;
  readonly publication: string;
  readonly startLsn: Lsn;
  readonly binary: boolean;
}): string {
  const pluginOptions = Object.entries({
    proto_version: '2',
    // A list of identifiers inside of a string, so it is quoted as both.
    publication_names: quoteIdentifier(options.publication),
    streaming: 'on',
    messages: 'true',
    binary: String(options.binary),
  });
  const list = pluginOptions.map(([name, value]) => `${quoteIdentifier(name)} ${literal(value)}`);
  const from = formatLsn(options.startLsn);
  return `START_REPLICATION SLOT ${quoteIdentifier(options.slot)} LOGICAL ${from} (${list.join(', ')})`;
}

/** The grammar of a walsender knows no E'' strings: a backslash is a character like any other. */
function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** While it is promoted, or when nobody does: its copy of the slot cannot be read, and is not lost. */
async function refuseStandby(connection: WireConnection, endpoint: Endpoint): Promise<void> {
  const [result] = await connection.query('SELECT pg_catalog.pg_is_in_recovery()');
  if (result?.rows[0]?.[0] !== 't') return;
  throw new OperatorError('CONNECTION_FAILED', `${describeEndpoint(endpoint)} is a standby`);
}

async function readWalSenderTimeout(connection: WireConnection): Promise<number> {
  const [result] = await connection.query(
    `SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'`,
  );
  return Number(result?.rows[0]?.[0] ?? 0);
}

/**
 * A slot that has confirmed more than we have would start there without a word: it was moved, or dropped
 * and made again under its name since the last connection (trap 15).
 */
async function refuseGap(
  connection: WireConnection,
  { slot, startLsn }: { readonly slot: string; readonly startLsn: Lsn },
): Promise<{ readonly headLsn: Lsn; readonly confirmed: Lsn | undefined }> {
  const [result] = await connection.query(
    `SELECT pg_catalog.pg_current_wal_flush_lsn(), (SELECT confirmed_flush_lsn
       FROM pg_catalog.pg_replication_slots WHERE slot_name = ${literal(slot)})`,
  );
  const [head, confirmedText] = result?.rows[0] ?? [];
  const headLsn = readLsn(head, 'pg_current_wal_flush_lsn');
  const confirmed = parseLsn(confirmedText ?? '');
  if (startLsn === 0n || confirmed === undefined || confirmed <= startLsn) {
    return { headLsn, confirmed };
  }
  throw new OperatorError(
    'SLOT_AHEAD',
    `slot ${slot} is at ${formatLsn(confirmed)}, what was received ends at ${formatLsn(startLsn)}`,
  );
}

function startError(error: unknown, slot: string): unknown {
  const sqlstate = sqlstateOf(error);
  if (sqlstate === '42704') return slotLost(slot, 'does not exist', sqlstate); // undefined_object
  if (sqlstate === '55006') return slotInUse(slot, undefined); // object_in_use
  return streamError(error, slot);
}

/**
 * An error that the server sent into a running stream, as what it means there. A publication is looked
 * up at the first change, so that one that is missing shows only then (trap 14).
 */
export function streamError(error: unknown, slot: string): unknown {
  const sqlstate = sqlstateOf(error);
  if (sqlstate === '42704') {
    // undefined_object
    return new OperatorError('PUBLICATION_CHANGED', `the publication of slot ${slot} is gone`, {
      detail: { sqlstate },
    });
  }
  // object_not_in_prerequisite_state: it was invalidated; undefined_file: its WAL was removed.
  const isLost = sqlstate === '55000' || sqlstate === '58P01';
  return isLost ? slotLost(slot, 'was invalidated', sqlstate) : error;
}

function slotLost(slot: string, what: string, sqlstate: string): OperatorError {
  return new OperatorError('SLOT_LOST', `slot ${slot} ${what}`, { detail: { sqlstate } });
}
