import { formatLsn } from '#src/core/lsn.ts';
import type { Lag, Phase } from '#src/core/progress.ts';
import type { Row, Session } from '#src/db/postgres/connection/session.ts';
import { readDefinitionOnly } from '#src/shadow/definition-only.ts';
import { readForeignNeighbours } from '#src/shadow/follow/apply/foreign-neighbours.ts';
import {
  type LargeObjectsRecord,
  readLargeObjects,
} from '#src/shadow/large-objects/large-object-ledger.ts';
import { isLeaseHeld } from '#src/shadow/lease.ts';
import {
  hasLedger,
  type RelationRecord,
  readRelationRecords,
  readShadows,
  type ShadowRecord,
} from '#src/shadow/ledger.ts';

/** What the target knows about one of its shadows. */
export type ShadowStatus = {
  readonly shadowId: string;
  /** `user@host:port/database` as it was when the shadow was made. */
  readonly source: string;
  readonly phase: Phase;
  readonly isFollowed: boolean;
  /** Whether some process runs it now, and which one did last. */
  readonly isRunning: boolean;
  readonly holder: string | undefined;
  readonly slotName: string | undefined;
  readonly spoolDirectory: string | undefined;
  readonly stop: { readonly code: string; readonly message: string } | undefined;
  readonly tables: number;
  readonly tablesCopied: number;
  readonly rowsCopied: number;
  readonly steps: number;
  readonly stepsDone: number;
  /** Tables that do not follow, and why: nothing may take them for in sync. */
  readonly stoppedTables: readonly StoppedTable[];
  /** The most of the spool that is kept for them alone, and how much is. */
  readonly stoppedSpoolBytesMax: number;
  readonly stoppedSpoolBytes: number;
  /** Undefined when the selection leaves them out. */
  readonly largeObjects: LargeObjectsStatus | undefined;
  /** Tables of which only the definition is on the target, and why: they are empty there. */
  readonly definitionOnly: readonly { readonly table: string; readonly reason: string }[];
  /** The last known lag ladder, and how old it is; undefined before the first. */
  readonly lag: (Lag & { readonly ageMs: number }) | undefined;
  /** The tolerance of the shadow; undefined when it has none. */
  readonly maxLagMs: number | undefined;
  /** Whether it is further behind than that, as far as anybody knows. */
  readonly isLate: boolean;
  /** Until the source's WAL reaches its budget at the present rate; undefined when it does not grow. */
  readonly sourceWalEtaMs: number | undefined;
  readonly verification: VerificationStatus | undefined;
};

/** A table that has stopped, or is on its way back (trap 19). */
export type StoppedTable = {
  readonly table: string;
  readonly state: 'stopped' | 'pending' | 'copying' | 'catching up';
  readonly code: string | undefined;
  readonly reason: string;
  /** When and where it stopped; it is the source as of there. */
  readonly stoppedAt: string | undefined;
  readonly stopLsn: string | undefined;
  readonly waitsFor: 'resume' | 'reseed' | undefined;
  /** What the spool keeps for it alone. */
  readonly spoolBytes: number;
  /** Tables that foreign keys connect with it: what those promise does not hold between them. */
  readonly foreignKeys: readonly string[];
};

export type LargeObjectsStatus = Pick<
  LargeObjectsRecord,
  'state' | 'objects' | 'bytes' | 'unreadable' | 'changedAt'
>;

export type VerificationStatus = {
  readonly scope: string;
  readonly fenceLsn: string | undefined;
  readonly finishedAt: string | undefined;
  readonly differences: number;
};

/** Every shadow of a target, oldest first; none when the target has no ledger. */
export async function readStatus(target: Session): Promise<readonly ShadowStatus[]> {
  if (!(await hasLedger(target))) return [];
  const statuses: ShadowStatus[] = [];
  for (const shadow of await readShadows(target)) {
    const { shadowId } = shadow;
    const relations = await readRelationRecords(target, shadowId);
    const [counts] = await target.query(COUNTS_SQL, [shadowId]);
    const [position] = await target.query(POSITION_SQL, [shadowId]);
    const [verification] = await target.query(VERIFICATION_SQL, [shadowId]);
    const largeObjects = await readLargeObjects(target, shadowId);
    const copied = relations.filter(({ state }) => state === 'copied');
    statuses.push({
      shadowId,
      source: shadow.sourceAddress,
      phase: shadow.phase,
      isFollowed: shadow.isFollowed,
      isRunning: await isLeaseHeld(target, shadowId),
      holder: counts?.['holder'] ?? undefined,
      slotName: shadow.slotName,
      spoolDirectory: shadow.spoolDirectory,
      stop:
        shadow.stopCode === undefined
          ? undefined
          : { code: shadow.stopCode, message: shadow.stopMessage ?? '' },
      tables: relations.length,
      tablesCopied: copied.length,
      rowsCopied: copied.reduce((sum, { rows }) => sum + rows, 0),
      steps: Number(counts?.['steps'] ?? 0),
      stepsDone: Number(counts?.['steps_done'] ?? 0),
      stoppedTables: await readStopped(target, shadowId, relations),
      stoppedSpoolBytesMax: shadow.stoppedSpoolBytesMax,
      // Segments are kept once, for all that need them.
      stoppedSpoolBytes: Math.max(0, ...relations.map(({ spoolBytes }) => spoolBytes)),
      largeObjects: largeObjects === undefined ? undefined : largeObjectsOf(largeObjects),
      definitionOnly: (await readDefinitionOnly(target, shadowId)).map(
        ({ schema, name, reason }) => ({ table: `${schema}.${name}`, reason }),
      ),
      lag: position === undefined ? undefined : lagOf(position, shadow.sourceWalBytesMax),
      maxLagMs: shadow.maxLagMs === 0 ? undefined : shadow.maxLagMs,
      isLate: position !== undefined && isLate(position, shadow),
      sourceWalEtaMs:
        position === undefined ? undefined : etaOf(position, shadow.sourceWalBytesMax),
      verification: verification === undefined ? undefined : verificationOf(verification),
    });
  }
  return statuses;
}

async function readStopped(
  target: Session,
  shadowId: string,
  relations: readonly RelationRecord[],
): Promise<readonly StoppedTable[]> {
  const stopped: StoppedTable[] = [];
  for (const relation of relations) {
    const { sourceOid, schema, name, state, isInLane, stop, spoolBytes } = relation;
    if (state === 'copied' || (state !== 'stopped' && !isInLane)) continue;
    stopped.push({
      table: `${schema}.${name}`,
      state,
      code: stop?.code,
      reason: stop?.message ?? 'it is being added',
      stoppedAt: stop?.at,
      stopLsn: stop?.lsn === undefined ? undefined : formatLsn(stop.lsn),
      waitsFor: stop?.waitsFor,
      spoolBytes,
      foreignKeys: await readForeignNeighbours(target, shadowId, sourceOid),
    });
  }
  return stopped;
}

const COUNTS_SQL = `
SELECT (SELECT holder FROM understudy.lease WHERE shadow_id = $1) AS holder,
       count(*) AS steps, count(done_at) AS steps_done
  FROM understudy.step WHERE shadow_id = $1`;

const POSITION_SQL = `
SELECT p.*, greatest(source_head_lsn - applied_lsn, 0) AS lag_bytes,
       (extract(epoch FROM now() - updated_at) * 1000)::bigint AS age_ms
  FROM understudy.position p WHERE shadow_id = $1`;

const VERIFICATION_SQL = `
SELECT scope, fence_lsn, finished_at, differences
  FROM understudy.verification WHERE shadow_id = $1 AND finished_at IS NOT NULL
 ORDER BY verification_id DESC LIMIT 1`;

function lagOf(row: Row, sourceWalBytesMax: number): Lag & { readonly ageMs: number } {
  return {
    sourceHeadLsn: row['source_head_lsn'] ?? '',
    sentLsn: row['sent_lsn'] ?? '',
    receivedLsn: row['received_lsn'] ?? '',
    durableLsn: row['durable_lsn'] ?? '',
    appliedLsn: row['applied_lsn'] ?? '',
    lagBytes: Number(row['lag_bytes']),
    lagMs: Number(row['lag_ms']),
    transactionsApplied: Number(row['transactions_applied']),
    rowsApplied: Number(row['rows_applied']),
    spoolBytes: Number(row['spool_bytes']),
    sourceWalBytes: Number(row['source_wal_bytes']),
    sourceWalBytesMax,
    ageMs: Number(row['age_ms']),
  };
}

/** A lag that is measured every second is this old when nobody measures it any more. */
const UNMEASURED_MS = 10_000;

/** The lag of a shadow that nobody runs grows. While it is copied it serves nobody yet. */
function isLate(row: Row, { maxLagMs, phase }: ShadowRecord): boolean {
  if (maxLagMs === 0 || !['catching up', 'following', 'stopped'].includes(phase)) return false;
  const ageMs = Number(row['age_ms']);
  const lagMs = Number(row['lag_ms']) + (ageMs > UNMEASURED_MS ? ageMs : 0);
  return row['is_late'] === 't' || lagMs > maxLagMs;
}

function etaOf(row: Row, sourceWalBytesMax: number): number | undefined {
  const rate = Number(row['source_wal_rate']);
  if (rate <= 0) return undefined;
  return Math.max(0, ((sourceWalBytesMax - Number(row['source_wal_bytes'])) / rate) * 1000);
}

function largeObjectsOf(record: LargeObjectsRecord): LargeObjectsStatus {
  const { state, objects, bytes, unreadable, changedAt } = record;
  return { state, objects, bytes, unreadable, changedAt };
}

function verificationOf(row: Row): VerificationStatus {
  return {
    scope: row['scope'] ?? '',
    fenceLsn: row['fence_lsn'] ?? undefined,
    finishedAt: row['finished_at'] ?? undefined,
    differences: Number(row['differences']),
  };
}
