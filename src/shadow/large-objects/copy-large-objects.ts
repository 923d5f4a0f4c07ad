import type { Endpoint } from '#src/core/endpoint.ts';
import type { Report } from '#src/core/progress.ts';
import { quoteLiteral } from '#src/core/table.ts';
import { sqlstateOf } from '#src/db/postgres/connection/server-error.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { assert } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { readSnapshots } from '#src/shadow/copy/copy-ledger.ts';
import { retryLostConnections, type RetryDeps } from '#src/shadow/copy/retry.ts';
import { SNAPSHOT_GONE_SQLSTATES } from '#src/shadow/copy/snapshot-gone.ts';

import { readFingerprint } from './fingerprint.ts';
import {
  insertLargeObjects,
  type LargeObjectsRecord,
  readLargeObjects,
  updateLargeObjects,
} from './large-object-ledger.ts';
import {
  bytesOf,
  HEAD_BYTES,
  type ObjectHead,
  PIECE_BYTES,
  readHeads,
  readOids,
  readPiece,
} from './read-objects.ts';

/**
 * The copy of the large objects: in the order of their OIDs, under the same OIDs, so that columns which
 * name one go on naming it. One row of the ledger says how far it is, written in the transaction that
 * wrote the objects; an object that is larger than a piece is written over several transactions.
 *
 * They do not follow afterwards, since logical decoding does not carry them. Resumed on another snapshot
 * the copy goes on if nothing has changed since before the first one, else it begins anew.
 */
export type LargeObjectCopy = RetryDeps & {
  readonly source: Endpoint;
  readonly target: Endpoint;
  readonly shadowId: string;
  /** Of the copy of the tables, if it is still exported; those on record are tried as well. */
  readonly exported: readonly string[];
  readonly report: Report;
  readonly failpoints: Failpoints;
};

/** It may have more than its head. */
function isLong({ head }: ObjectHead): boolean {
  return head !== undefined && bytesOf(head) === HEAD_BYTES;
}

/** Pieces that one transaction writes. */
const PIECES_MAX = 16;

/** To be called before the snapshot of the copy is taken (`readFingerprint` says why). */
export async function prepareLargeObjects(
  source: Session,
  target: Session,
  shadowId: string,
): Promise<void> {
  await insertLargeObjects(target, shadowId, await readFingerprint(source));
}

/** Copy what is not copied yet. Throws TARGET_NOT_EMPTY, and what sessions throw. */
export async function copyLargeObjects(copy: LargeObjectCopy): Promise<void> {
  await retryLostConnections(copy, async () => {
    const applicationName = `understudy ${copy.shadowId} large objects`;
    await using source = await openSession(copy.source, { applicationName });
    await using target = await openSession(copy.target, { applicationName });
    await new Copy(copy, source, target).run();
  });
}

class Copy {
  readonly #copy: LargeObjectCopy;
  readonly #source: Session;
  readonly #target: Session;

  constructor(copy: LargeObjectCopy, source: Session, target: Session) {
    this.#copy = copy;
    this.#source = source;
    this.#target = target;
  }

  async run(): Promise<void> {
    const { shadowId, signal } = this.#copy;
    const found = await readLargeObjects(this.#target, shadowId);
    assert(found !== undefined, 'the large objects are on record before they are copied');
    if (found.state === 'copied') return;
    let record = await this.#enter(found);
    for (;;) {
      signal.throwIfAborted();
      if (record.offset > 0) record = await this.#goOn(record);
      const heads = await readHeads(this.#source, record.oid);
      if (heads.length === 0) break;
      record = await this.#writeBatch(record, heads);
    }
    await this.#finish(record);
  }

  /** Read on a snapshot of the copy, or else on one of now. */
  async #enter(found: LargeObjectsRecord): Promise<LargeObjectsRecord> {
    const fingerprint = await readFingerprint(this.#source);
    await this.#beginSnapshot();
    const [row] = await this.#source.query('SELECT pg_catalog.pg_current_snapshot()::text AS s');
    const snapshot = row?.['s'] ?? '';
    if (found.snapshot === undefined) await this.#requireNone();
    const isSame = found.snapshot === undefined || found.snapshot === snapshot;
    if (isSame || fingerprint === found.fingerprint) return { ...found, snapshot };
    return {
      ...found,
      snapshot,
      isAnew: true,
      oid: 0,
      offset: 0,
      objects: 0,
      bytes: 0,
      unreadable: 0,
    };
  }

  async #beginSnapshot(): Promise<void> {
    const begin = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';
    const recorded = await readSnapshots(this.#target, this.#copy.shadowId);
    const known = [...this.#copy.exported, ...recorded.flatMap(({ exported }) => exported)];
    for (const exported of known) {
      await this.#source.query(begin);
      try {
        await this.#source.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(exported)}`);
        return;
      } catch (error) {
        if (!SNAPSHOT_GONE_SQLSTATES.has(sqlstateOf(error) ?? '')) throw error;
        await this.#source.query('ROLLBACK');
      }
    }
    await this.#source.query(begin);
  }

  /**
   * Objects of somebody else might have the OIDs that ours must have, now or when the source makes one;
   * and a repair would remove them.
   */
  async #requireNone(): Promise<void> {
    const [taken] = await this.#target.query(
      'SELECT oid FROM pg_catalog.pg_largeobject_metadata LIMIT 1',
    );
    if (taken === undefined) return;
    throw new OperatorError(
      'TARGET_NOT_EMPTY',
      `the target has large object ${taken['oid']} already`,
    );
  }

  /** Whole objects up to the first that has more than a head; of that one the head. */
  async #writeBatch(
    record: LargeObjectsRecord,
    heads: readonly ObjectHead[],
  ): Promise<LargeObjectsRecord> {
    const firstLong = heads.findIndex(isLong);
    const written = firstLong === -1 ? heads : heads.slice(0, firstLong + 1);
    const long = firstLong === -1 ? undefined : heads[firstLong];
    const last = written.at(-1)?.oid ?? record.oid;
    const readable = written.filter(({ head }) => head !== undefined);
    const next: LargeObjectsRecord = {
      ...record,
      // Of the long one the head is written, so that it is the one after this OID which is under way.
      oid: long === undefined ? last : long.oid - 1,
      offset: long === undefined ? 0 : HEAD_BYTES,
      objects: record.objects + readable.length,
      bytes: record.bytes + readable.reduce((sum, { head }) => sum + bytesOf(head ?? '\\x'), 0),
      unreadable: record.unreadable + written.length - readable.length,
    };
    await this.#commit(next, async () => {
      if (record.isAnew) await this.#removeOld(record.oid, last);
      await this.#target.query(
        `SELECT pg_catalog.lo_from_bytea(o.oid::oid, o.head::bytea)
           FROM unnest($1::int8[], $2::text[]) AS o (oid, head)`,
        [readable.map(({ oid }) => String(oid)), readable.map(({ head }) => head ?? '\\x')],
      );
      for (const { oid, comment } of readable) {
        if (comment === undefined) continue;
        await this.#target.query(`COMMENT ON LARGE OBJECT ${oid} IS ${quoteLiteral(comment)}`);
      }
    });
    return next;
  }

  /** Of a copy that has begun anew: what an earlier one wrote. Each takes a lock until the commit. */
  async #removeOld(after: number, last: number): Promise<void> {
    for (const oid of await readOids(this.#target, after, last)) {
      await this.#target.query('SELECT pg_catalog.lo_unlink($1::int8::oid)', [oid]);
    }
  }

  /** The object after `record.oid`, from the offset to its end. */
  async #goOn(record: LargeObjectsRecord): Promise<LargeObjectsRecord> {
    const oid = record.oid + 1;
    let now = record;
    for (;;) {
      this.#copy.signal.throwIfAborted();
      let { offset, bytes } = now;
      let isEnd = false;
      await this.#target.query('BEGIN');
      for (let pieces = 0; pieces < PIECES_MAX && !isEnd; pieces += 1) {
        const piece = await readPiece(this.#source, oid, offset);
        const length = bytesOf(piece);
        if (length > 0) {
          await this.#target.query(
            'SELECT pg_catalog.lo_put($1::int8::oid, $2::int8, $3::text::bytea)',
            [oid, offset, piece],
          );
        }
        offset += length;
        bytes += length;
        isEnd = length < PIECE_BYTES;
      }
      now = isEnd ? { ...now, oid, offset: 0, bytes } : { ...now, offset, bytes };
      await this.#record(now);
      if (isEnd) return now;
    }
  }

  /** What the target has after the last one, when it began anew; then nothing is missing. */
  async #finish(record: LargeObjectsRecord): Promise<void> {
    const last = 2 ** 32 - 1;
    await this.#commit({ ...record, state: 'copied' }, async () => {
      if (record.isAnew) await this.#removeOld(record.oid, last);
    });
    await this.#source.query('ROLLBACK');
    const { objects, bytes, unreadable } = record;
    const { report } = this.#copy;
    if (objects > 0) {
      const message = `copied ${objects} large objects (${bytes} bytes); they do not follow the source`;
      report({ type: 'notice', level: 'info', message });
    }
    if (unreadable > 0) {
      const message = `${unreadable} large objects were not copied: the role may not read them`;
      report({ type: 'notice', level: 'warn', message });
    }
  }

  async #commit(record: LargeObjectsRecord, work: () => Promise<void>): Promise<void> {
    await this.#target.query('BEGIN');
    await work();
    await this.#record(record);
  }

  async #record(record: LargeObjectsRecord): Promise<void> {
    const { shadowId, failpoints } = this.#copy;
    await updateLargeObjects(this.#target, shadowId, record);
    failpoints.hit('largeObjects.beforeCommit');
    await this.#target.query('COMMIT');
    failpoints.hit('largeObjects.afterCommit');
  }
}
