import { quoteIdentifier, quoteLiteral } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { readSlot } from '#src/db/postgres/replication/slot.ts';
import { removeSql } from '#src/shadow/ddl/capture-sql.ts';
import { readCapture } from '#src/shadow/ddl/capture.ts';
import type { ShadowRecord } from '#src/shadow/ledger.ts';
import { readPublication } from '#src/shadow/publication.ts';

/** What `drop` leaves alone on a copy of the target, since it is the original's. */
export type Left = {
  readonly what: string;
  /** What removes it once the original is gone, on `side`; null for a folder. */
  readonly sql: string | null;
  readonly side: 'source' | 'target' | 'disk';
};

/** Of a shadow whose ledger came to this target by a restore or a copy: what is there of the original. */
export async function findLeft(
  shadow: ShadowRecord,
  source: Session,
  target: Session,
): Promise<readonly Left[]> {
  const { shadowId, slotName, publicationName, originName, spoolDirectory, hasDdlTriggers } =
    shadow;
  const left: Left[] = [];
  const slot = slotName === undefined ? undefined : await readSlot(source, slotName);
  if (slot !== undefined) {
    const state = slot.isActive ? 'in use' : 'not in use now';
    const sql = `SELECT pg_catalog.pg_drop_replication_slot(${quoteLiteral(slot.name)})`;
    left.push({ what: `slot ${slot.name}, ${state}`, sql, side: 'source' });
  }
  if (hasDdlTriggers || (await readCapture(source, shadowId)) === 'on') {
    const sql = removeSql(shadowId).join('; ');
    left.push({ what: 'the event triggers', sql, side: 'source' });
  }
  if (publicationName !== undefined && (await readPublication(source, publicationName))) {
    const sql = `DROP PUBLICATION ${quoteIdentifier(publicationName)}`;
    left.push({ what: `publication ${publicationName}`, sql, side: 'source' });
  }
  if (originName !== undefined && (await hasOrigin(target, originName))) {
    const sql = `SELECT pg_catalog.pg_replication_origin_drop(${quoteLiteral(originName)})`;
    left.push({ what: `replication origin ${originName}`, sql, side: 'target' });
  }
  if (spoolDirectory !== undefined) {
    left.push({ what: `spool ${spoolDirectory}`, sql: null, side: 'disk' });
  }
  return left;
}

/** Origins belong to the server, and the original may be on this one, too. */
async function hasOrigin(target: Session, originName: string): Promise<boolean> {
  const found = await target.query(
    'SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1',
    [originName],
  );
  return found.length > 0;
}
