import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { ApplySession } from '#src/db/postgres/apply/apply-session.ts';
import { readTargetColumns, tableKey } from '#src/db/postgres/apply/target-columns.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import type { Clock } from '#src/lib/clock.ts';
import type { ErrorCode, OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { DDL_PREFIX } from '#src/shadow/ddl/capture-sql.ts';
import { readLatestVersions } from '#src/shadow/ddl/version-ledger.ts';
import { stopRelation } from '#src/shadow/follow/table-states.ts';
import type { LagMeter } from '#src/shadow/follow/watch/monitor.ts';
import { readProgress } from '#src/shadow/lease.ts';
import { readRelationRecords, type ShadowRecord, type TableStop } from '#src/shadow/ledger.ts';
import { readChunking } from '#src/shadow/verify/chunking.ts';
import type { Spool } from '#src/stream/spool/spool.ts';

import { decided, type Memory, repeatAttempts } from './apply-attempts.ts';
import { openApplyConnection } from './apply-connection.ts';
import type { ApplyGate } from './apply-gate.ts';
import { ApplyLoop } from './apply-loop.ts';
import { ddlHandler } from './ddl-messages.ts';
import { type FollowedTable, followedTable } from './followed-table.ts';
import { FollowedTables } from './followed-tables.ts';
import { readForeignNeighbours } from './foreign-neighbours.ts';
import { type MessageHandlers, messageHandlers } from './logical-messages.ts';

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

const ORIGIN_DEADLINE_MS = 30_000;
const ORIGIN_RETRY_MS = 100;

/** Apply until aborted, or until it cannot go on. */
export async function applyChanges(deps: ApplyChangesDeps, signal: AbortSignal): Promise<void> {
  const said = new Set<string>();
  /** A relation that the stream had and the ledger did not when it was read. */
  let unknown: number | undefined;
  await repeatAttempts(
    deps,
    {
      attempt: async (memory) => {
        await attempt(deps, { memory, said }, signal);
        return 'again';
      },
      mend: async (error) => {
        if (error.code === 'PUBLICATION_CHANGED') {
          // A table may have been added since the tables were read.
          const isNew = unknown !== error.detail['relation'];
          unknown = Number(error.detail['relation']);
          return isNew ? 'again' : undefined;
        }
        return (await stopTable(deps, error)) ? 'again' : undefined;
      },
    },
    signal,
  );
}

type BetweenAttempts = {
  readonly memory: Memory;
  /** Notices about changes of the schema, which come again with every attempt. */
  readonly said: Set<string>;
};

async function attempt(
  deps: ApplyChangesDeps,
  { memory, said }: BetweenAttempts,
  signal: AbortSignal,
): Promise<void> {
  const { shadow, spool, meter, clock } = deps;
  await using target = await openSession(deps.target, {
    applicationName: `understudy ${shadow.shadowId}`,
    answerMsMax: ANSWER_MS_MAX,
  });
  await using applying = await openApplyConnection(deps, signal);
  const { connection } = applying;
  if (shadow.originName !== undefined) {
    await setupOrigin(connection, shadow.originName, clock, signal);
    deps.failpoints.hit('apply.afterOrigin');
  }
  const applied = await readProgress(target, shadow.shadowId);
  meter.appliedLsn = applied;
  meter.applying(clock.now());
  const { handOvers } = deps.gate;
  const tables = await readTables(target, shadow);
  await using reader = spool.reader(applied);
  const session = new ApplySession({
    connection,
    shadowId: shadow.shadowId,
    epoch: deps.epoch,
    progress: { kind: 'shadow' },
    applied,
    failpoints: deps.failpoints,
  });
  const loop = new ApplyLoop(
    {
      shadowId: shadow.shadowId,
      session,
      reader,
      tables: new FollowedTables(tables, () => deps.gate.handOvers !== handOvers),
      messages: await allHandlers(deps, said, target),
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

/** Those of the main loop. */
async function allHandlers(
  deps: ApplyChangesDeps,
  said: Set<string>,
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

/**
 * Tags what this session commits, for who follows the target in turn. No more: its progress is never set,
 * since it would move when a transaction fails, too (ADR 0013). One session may use an origin; that of a
 * runner which was killed lets go of it a moment later.
 */
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
        `SELECT pg_catalog.pg_replication_origin_create('${originName}')
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = '${originName}')`,
      );
      await connection.query(
        `SELECT pg_catalog.pg_replication_origin_session_setup('${originName}')`,
      );
      return;
    } catch (error) {
      // object_in_use
      if (sqlstateOf(error) !== '55006' || clock.now() > deadlineMs) throw error;
      await clock.sleep(ORIGIN_RETRY_MS, signal);
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
async function stopTable(deps: ApplyChangesDeps, error: OperatorError): Promise<boolean> {
  if (!STOPS_A_TABLE.has(error.code)) return false;
  const { shadow, epoch, meter } = deps;
  const { shadowId } = shadow;
  const sourceOid = Number(error.detail['relation']);
  // What was not committed is gone, and its changes are skipped from now on: it is as of the progress.
  const at = meter.appliedLsn;
  await using target = await openSession(deps.target, {
    applicationName: `understudy ${shadowId}`,
    answerMsMax: ANSWER_MS_MAX,
  });
  deps.failpoints.hit('stop.beforeRecord');
  await decided(stopRelation({ target, shadowId, epoch }, sourceOid, tableStop(error, at)));
  deps.failpoints.hit('stop.afterRecord');
  deps.log.error({ code: error.code, relation: sourceOid }, 'a table was stopped');
  const others = await readForeignNeighbours(target, shadowId, sourceOid);
  const spans = others.length === 0 ? '' : `, also ${others.join(', ')} that foreign keys connect`;
  deps.report({
    type: 'notice',
    level: 'warn',
    message: `${error.message}; the table has stopped, the others go on${spans}`,
  });
  return true;
}

/** `waitsFor: 'reseed'` in the error's detail: rows were changed that the stream does not show. */
export function tableStop(error: OperatorError, at: Lsn): TableStop {
  const { code, message, detail } = error;
  // The values that such a row lacks are nowhere in the stream.
  const needsCopy = detail['waitsFor'] === 'reseed' || code === 'ROW_INCOMPLETE';
  return {
    code,
    message,
    lsn: at,
    waitsFor: needsCopy ? 'reseed' : 'resume',
  };
}
