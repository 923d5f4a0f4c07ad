import { type Lsn, lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { quoteTable } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import { readRelationRecords } from '#src/shadow/ledger.ts';
import type { Spool } from '#src/stream/spool/spool.ts';

/**
 * From where on the spool is kept (trap 16): for the main loop what it has not applied, for a lane what
 * that has not, and for a table that waits to be resumed everything since it stopped. The last has a
 * bound; past it the table that needs most of the spool is let go, and has to be copied again (trap 19).
 */
export class SpoolFloor {
  readonly #pins = new Set<{ readonly lsn: Lsn }>();

  /**
   * Keep what commits after a position that nothing on record names yet. To be given up when something
   * does: a trim that looked at the record before that had also looked at the pins before, and at what was
   * applied, which was no more than the pin.
   */
  pin(applied: Lsn): Disposable {
    const pin = { lsn: applied };
    this.#pins.add(pin);
    return { [Symbol.dispose]: () => void this.#pins.delete(pin) };
  }

  /** The lowest pin, or `applied`. To be read at the moment at which that is. */
  below(applied: Lsn): Lsn {
    return [...this.#pins].reduce((low, pin) => (pin.lsn < low ? pin.lsn : low), applied);
  }
}

/** After which transaction a table's changes are needed that the main loop does not apply; undefined for none. */
export function neededAfter(record: RelationRecord): Lsn | undefined {
  if (record.state === 'catching up') return record.appliedLsn;
  if (record.isSpooled) return record.stop?.lsn;
  // A copy that is under way: from its snapshot on. One that has none yet still says where it stopped.
  const isBound = record.isInLane && record.stop?.lsn === undefined;
  return isBound ? record.startLsn : undefined;
}

/**
 * Let go what is past the bound, note what each stopped table costs, and give the position up to which the
 * spool may be trimmed, `applied` at the most.
 */
export async function keepForStopped(
  deps: {
    readonly target: Session;
    readonly shadow: { readonly shadowId: string; readonly stoppedSpoolBytesMax: number };
    readonly spool: Pick<Spool, 'bytesBetween'>;
    readonly report: Report;
  },
  applied: Lsn,
): Promise<Lsn> {
  const { target, shadow, spool } = deps;
  for (;;) {
    const records = await readRelationRecords(target, shadow.shadowId, 'not followed');
    const stopped = records
      .filter(({ state, isSpooled }) => state === 'stopped' && isSpooled)
      .map((record) => ({ record, from: record.stop?.lsn ?? applied }))
      .toSorted((a, b) => (a.from < b.from ? -1 : 1));
    await recordBytes(deps, stopped, applied);
    const [oldest] = stopped;
    const bytes = oldest === undefined ? 0 : spool.bytesBetween(oldest.from, applied);
    if (oldest === undefined || bytes <= shadow.stoppedSpoolBytesMax) {
      return records.reduce((low, record) => {
        const needed = neededAfter(record);
        return needed !== undefined && needed < low ? needed : low;
      }, applied);
    }
    await letGo(deps, oldest.record, `the spool kept ${bytes} bytes for it`);
  }
}

/** Let go the tables whose changes the spool does not have from where they need them. */
export async function letGoBefore(
  deps: {
    readonly target: Session;
    readonly shadow: { readonly shadowId: string };
    readonly report: Report;
  },
  startLsn: Lsn,
  why: string,
): Promise<void> {
  for (const record of await readRelationRecords(
    deps.target,
    deps.shadow.shadowId,
    'not followed',
  )) {
    const needed = neededAfter(record);
    if (needed === undefined || needed >= startLsn) continue;
    await letGo(deps, record, why);
  }
}

async function recordBytes(
  deps: Pick<Parameters<typeof keepForStopped>[0], 'target' | 'shadow' | 'spool'>,
  stopped: readonly { readonly record: RelationRecord; readonly from: Lsn }[],
  applied: Lsn,
): Promise<void> {
  for (const { record, from } of stopped) {
    const bytes = deps.spool.bytesBetween(from, applied);
    if (bytes === record.spoolBytes) continue;
    await deps.target.execute(
      `UPDATE understudy.relation SET spool_bytes = $3
        WHERE shadow_id = $1 AND source_oid = $2 AND state = 'stopped'`,
      [deps.shadow.shadowId, record.sourceOid, bytes],
    );
  }
}

/** Nothing, when the table is on its way back by now. */
async function letGo(
  deps: Pick<Parameters<typeof letGoBefore>[0], 'target' | 'shadow' | 'report'>,
  record: RelationRecord,
  why: string,
): Promise<void> {
  const touched = await deps.target.execute(
    `UPDATE understudy.relation
        SET state = 'stopped', is_in_lane = false, applied_lsn = NULL, waits_for = 'reseed',
            is_spooled = false, spool_bytes = 0, stopped_at = coalesce(stopped_at, now()),
            stop_code = coalesce(stop_code, 'SPOOL_MISSING'), stop_message = coalesce(stop_message, $4)
      WHERE shadow_id = $1 AND source_oid = $2 AND state = $3`,
    [deps.shadow.shadowId, record.sourceOid, record.state, why],
  );
  if (touched !== 1) return;
  deps.report({
    type: 'notice',
    level: 'warn',
    message: `the changes of stopped table ${quoteTable(record)} are not kept any more: ${why}; it must be copied again (reseed)`,
  });
}

/** The earliest of the two. */
export function earlier(a: Lsn, b: Lsn): Lsn {
  return lsn(a < b ? a : b);
}
