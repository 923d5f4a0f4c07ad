import type { Endpoint } from '#src/core/endpoint.ts';
import { type Lsn, lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { ApplySession } from '#src/db/postgres/apply/apply-session.ts';
import { readTargetColumns, tableKey } from '#src/db/postgres/apply/target-columns.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import {
  openWireConnection,
  type WireConnection,
} from '#src/db/postgres/connection/wire-connection.ts';
import type { Clock } from '#src/lib/clock.ts';
import { type ErrorCode, OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { DDL_PREFIX } from '#src/shadow/ddl/capture-sql.ts';
import { readLatestVersions } from '#src/shadow/ddl/version-ledger.ts';
import { readProgress } from '#src/shadow/lease.ts';
import {
  readRelationRecords,
  type ShadowRecord,
  stopRelation,
  type TableStop,
} from '#src/shadow/ledger.ts';
import { readChunking } from '#src/shadow/verify/chunking.ts';
import type { Spool } from '#src/stream/spool/spool.ts';

import type { ApplyGate } from './apply-gate.ts';
import { ApplyLoop } from './apply-loop.ts';
import { ddlHandler } from './ddl-messages.ts';
import { type FollowedTable, followedTable } from './followed-table.ts';
import { FollowedTables } from './followed-tables.ts';
import { type MessageHandlers, messageHandlers } from './logical-messages.ts';
import type { LagMeter } from './monitor.ts';

/**
 * Runs the apply loop, and makes it again after what a new attempt can mend: each attempt has a new
 * connection, reads progress and tables from the target and begins at that progress, so nothing that an
 * attempt did not commit is left of it.
 *
 * A table that cannot follow any more is stopped in the ledger; the next attempt goes on without it
 * (trap 19).
 */
export type ApplyChangesDeps = {
  readonly target: Endpoint;
  readonly shadow: ShadowRecord;
  readonly epoch: bigint;
  readonly spool: Spool;
  readonly gate: ApplyGate;
  readonly meter: LagMeter;
  /** Called when the source's catalog is to be looked at soon. */
  readonly onUnknownTable: () => void;
  readonly clock: Clock;
  readonly log: Logger;
  readonly report: Report;
  readonly failpoints: Failpoints;
};

/** An attempt that ran for so long was no failure; the next one has all of its time. */
const WORKED_MS = 10_000;
/** What is under way when following ends has so long to end by itself, and again to be cancelled. */
const GRACE_MS = 1_000;
/** How long a lost target is waited for. */
const GIVE_UP_MS = 60_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;
const ORIGIN_DEADLINE_MS = 30_000;

const APPLY_SETTINGS = {
  // Progress is in the same transaction, so a lost tail of commits is applied again, as the native worker does.
  synchronous_commit: 'off',
  default_transaction_isolation: 'read committed',
  // The plan of a set statement must not depend on the size of its first batch.
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
};

/** What an attempt leaves to the next. */
type Memory = {
  runningAtMs: number | undefined;
  /** The transaction that it was reading. */
  begunLsn: () => Lsn | undefined;
  /** See ApplyLoopDeps. */
  settleBefore: Lsn | undefined;
  /** Notices about changes of the schema, which come again with every attempt. */
  readonly said: Set<string>;
};

/** Apply until aborted, or until it cannot go on. */
export async function applyChanges(deps: ApplyChangesDeps, signal: AbortSignal): Promise<void> {
  const { clock, log } = deps;
  const memory: Memory = {
    runningAtMs: undefined,
    begunLsn: () => undefined,
    settleBefore: undefined,
    said: new Set(),
  };
  let retryMs = RETRY_FIRST_MS;
  let brokenAtMs: number | undefined;
  for (;;) {
    memory.runningAtMs = undefined;
    memory.begunLsn = () => undefined;
    try {
      await attempt(deps, memory, signal);
      // The tables are to be read again.
      brokenAtMs = undefined;
    } catch (error) {
      signal.throwIfAborted();
      if (mustSettleFirst(memory, error)) continue;
      const stopped = await stopTable(deps, error).catch((failure: unknown) => ({ failure }));
      if (stopped === true) continue;
      const failure = stopped === false ? error : stopped.failure;
      const now = clock.now();
      const { runningAtMs } = memory;
      if (
        brokenAtMs === undefined ||
        (runningAtMs !== undefined && now - runningAtMs > WORKED_MS)
      ) {
        brokenAtMs = now;
        retryMs = RETRY_FIRST_MS;
      }
      if (!isTransient(failure) || now - brokenAtMs > GIVE_UP_MS) throw failure;
      const code = failure instanceof OperatorError ? failure.code : 'unknown';
      log.warn({ code, retryMs }, 'applying was interrupted');
      await clock.sleep(retryMs, signal);
      retryMs = Math.min(2 * retryMs, RETRY_MAX_MS);
    }
  }
}

/**
 * A table that was changed stops right before the transaction that shows it, and not before all of a
 * group: then what is left of it in the spool has the new shape from its first change on.
 */
function mustSettleFirst(memory: Memory, error: unknown): boolean {
  if (!(error instanceof OperatorError) || error.code !== 'TABLE_CHANGED') return false;
  const begun = memory.begunLsn();
  if (begun === undefined || memory.settleBefore === begun) return false;
  memory.settleBefore = begun;
  return true;
}

async function attempt(deps: ApplyChangesDeps, memory: Memory, signal: AbortSignal): Promise<void> {
  const { shadow, spool, meter, clock } = deps;
  await using target = await openSession(deps.target, {
    applicationName: `understudy ${shadow.shadowId}`,
    answerMsMax: ANSWER_MS_MAX,
  });
  await using connection = await openWireConnection(deps.target, {
    applicationName: `understudy ${shadow.shadowId} apply`,
    settings: APPLY_SETTINGS,
  });
  using _ = cancelOnAbort(connection, clock, signal);
  // By SET and not at startup, where a grant of the parameter does not count yet.
  await connection.query('SET session_replication_role = replica');
  await noticeLostClient(connection);
  if (shadow.originName !== undefined) {
    await setupOrigin(connection, shadow.originName, clock, signal);
    deps.failpoints.hit('apply.afterOrigin');
  }
  // Only now: whoever held the origin before has ended, and what it committed counts.
  const start = shadow.consistentLsn ?? lsn(0n);
  const applied = await readProgress(target, shadow, start);
  meter.appliedLsn = applied;
  meter.applying(clock.now());
  const tables = await readTables(target, shadow);
  await using reader = spool.reader(applied);
  const session = new ApplySession({
    connection,
    shadowId: shadow.shadowId,
    epoch: deps.epoch,
    progress: { kind: shadow.originName === undefined ? 'table' : 'origin' },
    failpoints: deps.failpoints,
  });
  const loop = new ApplyLoop(
    {
      shadowId: shadow.shadowId,
      session,
      reader,
      tables: new FollowedTables(tables),
      messages: await allHandlers(deps, memory, target),
      gate: deps.gate,
      clock,
      failpoints: deps.failpoints,
      settleBefore: memory.settleBefore,
      onApplied: (done) => meter.applied(done, clock.now()),
    },
    applied,
  );
  memory.runningAtMs = clock.now();
  memory.begunLsn = () => loop.begunLsn;
  await loop.run(signal);
}

/**
 * A statement on the target may wait for a lock, or for ever behind a dead network. Nobody waits for it
 * once following ends: its transaction is rolled back.
 */
function cancelOnAbort(connection: WireConnection, clock: Clock, signal: AbortSignal): Disposable {
  const over = new AbortController();
  const end = async (): Promise<void> => {
    await clock.sleep(GRACE_MS, over.signal);
    connection.cancel().catch(() => undefined);
    await clock.sleep(GRACE_MS, over.signal);
    connection.destroy();
  };
  const onAbort = (): void => void end().catch(() => undefined);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  return {
    [Symbol.dispose]: () => {
      signal.removeEventListener('abort', onAbort);
      over.abort();
    },
  };
}

/**
 * A backend that waits for a lock does not see that its client was killed, and would keep the origin and
 * the lease's row from the next runner. Not every platform of a server can tell.
 */
async function noticeLostClient(connection: WireConnection): Promise<void> {
  await connection.query(`SET client_connection_check_interval = '2s'`).catch((error: unknown) => {
    // invalid_parameter_value
    if (sqlstateOf(error) !== '22023') throw error;
  });
}

/** Those of the main loop. */
async function allHandlers(
  deps: ApplyChangesDeps,
  { said }: Memory,
  target: Session,
): Promise<MessageHandlers> {
  const { shadowId } = deps.shadow;
  const ddl = ddlHandler({
    shadowId,
    latest: await readLatestVersions(target, shadowId),
    onUnknown: deps.onUnknownTable,
    notice: (message) => {
      if (!said.has(message)) deps.report({ type: 'notice', level: 'warn', message });
      said.add(message);
    },
  });
  return new Map([...messageHandlers(shadowId), [DDL_PREFIX, ddl]]);
}

async function readTables(
  target: Session,
  shadow: ShadowRecord,
): Promise<ReadonlyMap<number, FollowedTable>> {
  const records = await readRelationRecords(target, shadow.shadowId);
  const columns = await readTargetColumns(target, records);
  const chunkings = await readChunking(target, shadow.shadowId);
  return new Map(
    records.map((record) => [
      record.sourceOid,
      followedTable({
        record,
        targetColumns: columns.get(tableKey(record)) ?? new Map(),
        chunking: chunkings.get(record.sourceOid),
        format: shadow.streamFormat,
      }),
    ]),
  );
}

/** One session may use an origin; that of a runner which was killed lets go of it a moment later. */
async function setupOrigin(
  connection: WireConnection,
  originName: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = clock.now() + ORIGIN_DEADLINE_MS;
  for (;;) {
    try {
      await connection.query(
        `SELECT pg_catalog.pg_replication_origin_session_setup('${originName}')`,
      );
      return;
    } catch (error) {
      // object_in_use
      if (sqlstateOf(error) !== '55006' || clock.now() > deadlineMs) throw error;
      await clock.sleep(RETRY_FIRST_MS, signal);
    }
  }
}

/** Failures of one table, which `detail.relation` names. */
const STOPS_A_TABLE: ReadonlySet<ErrorCode> = new Set([
  'TABLE_DIVERGED',
  'TABLE_CHANGED',
  'ROW_INCOMPLETE',
]);

/** Stop the table that an error is about; false when it is about none. */
async function stopTable(deps: ApplyChangesDeps, error: unknown): Promise<boolean> {
  if (!(error instanceof OperatorError)) return false;
  if (!STOPS_A_TABLE.has(error.code)) return false;
  const { shadow, meter } = deps;
  const sourceOid = Number(error.detail['relation']);
  // What was not committed is gone, and its changes are skipped from now on: it is as of the progress.
  const at = meter.appliedLsn;
  await using target = await openSession(deps.target, {
    applicationName: `understudy ${shadow.shadowId}`,
    answerMsMax: ANSWER_MS_MAX,
  });
  deps.failpoints.hit('stop.beforeRecord');
  await stopRelation(target, shadow.shadowId, sourceOid, tableStop(error, at));
  deps.failpoints.hit('stop.afterRecord');
  deps.log.error({ code: error.code, relation: sourceOid }, 'a table was stopped');
  deps.report({
    type: 'notice',
    level: 'warn',
    message: `${error.message}; the table has stopped, the others go on`,
  });
  return true;
}

/** `waitsFor: 'reseed'` in the error's detail: rows were changed that the stream does not show. */
export function tableStop(error: OperatorError, at: Lsn): TableStop {
  const { code, message, detail } = error;
  return {
    code,
    message,
    lsn: at,
    waitsFor: detail['waitsFor'] === 'reseed' ? 'reseed' : 'resume',
  };
}

/** Failures that come from outside of the data: connections, deadlocks, resources, a server that restarts. */
function isTransient(error: unknown): boolean {
  if (!(error instanceof OperatorError)) return false;
  if (error.code === 'CONNECTION_LOST' || error.code === 'CONNECTION_FAILED') return true;
  const sqlstate = sqlstateOf(error) ?? '';
  return ['08', '40', '53', '57'].includes(sqlstate.slice(0, 2)) || sqlstate === '55P03';
}
