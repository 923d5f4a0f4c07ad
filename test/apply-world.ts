import type { ApplyCommit } from '#src/db/postgres/apply/apply-session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { FollowedTable } from '#src/shadow/follow/apply/followed-table.ts';
import type { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { TAG } from '#src/wire/postgres/pgoutput.ts';

import {
  beginMessage,
  commitMessage,
  deleteMessage,
  insertMessage,
  logicalMessage,
  originMessage,
  streamAbortMessage,
  streamCommitMessage,
  streamStartMessage,
  streamStopMessage,
  tuple,
  updateMessage,
} from './pgoutput-encoder.ts';
import { decodeTuple, type Row, TableModel } from './table-model.ts';

export const TABLE_OID = 5;

const KINDS = ['insert', 'update', 'delete'] as const;

export type WorldEvent =
  | { readonly type: 'message'; readonly bytes: Buffer; readonly walStart: bigint }
  | { readonly type: 'reset' }
  | { readonly type: 'position'; readonly endLsn: bigint };

type Change = { readonly kind: 'insert' | 'update' | 'delete'; readonly row: Row };
type Transaction = {
  readonly commitLsn: bigint;
  readonly endLsn: bigint;
  readonly changes: readonly Change[];
};
type Stream = {
  readonly xid: number;
  changes: (Change & { readonly subXid: number })[];
  isNew: boolean;
};

/**
 * A source of one table (id, value) that writes transactions, streamed and not, and remembers what the
 * table was after each commit: whatever the target commits must be one of these states (I4).
 */
export class WorldSource {
  readonly events: WorldEvent[] = [];
  /** Rows by the end of the commit that made them so. */
  readonly states = new Map<bigint, readonly string[]>();
  readonly #table = new TableModel([0]);
  readonly #done: Transaction[] = [];
  readonly #streams = new Map<number, Stream>();
  #lsn: bigint;
  #xid = 700;
  #key = 0;

  constructor(start: bigint) {
    this.#lsn = start;
    this.states.set(start, []);
  }

  get lsn(): bigint {
    return this.#lsn;
  }

  /** With `cutAfter` the connection ends after so many changes, and all of it comes again. */
  transaction(changes: number, cutAfter?: number): void {
    const made = this.#changes(changes, this.#table.copy());
    const commitLsn = this.#next();
    if (cutAfter !== undefined) {
      this.#message(beginMessage(commitLsn, ++this.#xid));
      for (const change of made.slice(0, cutAfter)) this.#change(change);
      this.reconnect(0);
    }
    const endLsn = this.#next();
    this.#commit({ commitLsn, endLsn, changes: made });
    this.#send({ commitLsn, endLsn, changes: made });
  }

  streamBlock(which: number, changes: number, subtransaction: number): void {
    const stream = [...this.#streams.values()][which] ?? this.#newStream();
    const subXid = stream.xid + subtransaction;
    this.#message(streamStartMessage(stream.xid, stream.isNew));
    if (stream.isNew) this.#message(originMessage('elsewhere'));
    stream.isNew = false;
    // New rows only: others might take away what it would change.
    for (let i = 0; i < changes; i++) {
      const change = { kind: 'insert', row: this.#newRow(), subXid } as const;
      stream.changes.push(change);
      this.#change(change, subXid);
    }
    this.#message(streamStopMessage());
  }

  streamCommit(which: number): void {
    const stream = [...this.#streams.values()][which];
    if (stream === undefined) return;
    this.#streams.delete(stream.xid);
    const [commitLsn, endLsn] = [this.#next(), this.#next()];
    this.#commit({ commitLsn, endLsn, changes: stream.changes });
    this.#message(streamCommitMessage(stream.xid, commitLsn, endLsn));
  }

  /** `subtransaction` 0: all of it. */
  streamAbort(which: number, subtransaction: number): void {
    const stream = [...this.#streams.values()][which];
    if (stream === undefined) return;
    const subXid = stream.xid + subtransaction;
    stream.changes = stream.changes.filter((change) => change.subXid !== subXid);
    if (subtransaction === 0) this.#streams.delete(stream.xid);
    this.#message(streamAbortMessage(stream.xid, subXid));
  }

  /** The connection is made again: `again` transactions come once more, and all that streams have sent. */
  reconnect(again: number): void {
    this.events.push({ type: 'reset' });
    for (const transaction of again === 0 ? [] : this.#done.slice(-again)) this.#send(transaction);
    for (const stream of this.#streams.values()) {
      this.#message(streamStartMessage(stream.xid, true));
      for (const change of stream.changes) this.#change(change, change.subXid);
      this.#message(streamStopMessage());
    }
  }

  position(): void {
    this.events.push({ type: 'position', endLsn: this.#next() });
  }

  /** Of somebody else, outside of transactions. */
  message(): void {
    const logical = { isTransactional: false, prefix: 'other', content: 'x' };
    this.#message(logicalMessage(logical));
  }

  #changes(count: number, table: TableModel): readonly Change[] {
    return Array.from({ length: count }, (_, i): Change => {
      const rows = table.rows();
      const old = rows[(this.#key * 7 + i) % Math.max(1, rows.length)];
      const kind = old === undefined ? 'insert' : (KINDS[i % KINDS.length] ?? 'insert');
      const fresh = this.#newRow();
      const row: Row =
        kind === 'insert' || old === undefined ? fresh : [old[0] ?? null, fresh[1] ?? null];
      apply(table, { kind, row });
      return { kind, row };
    });
  }

  #newRow(): Row {
    this.#key += 1;
    return [String(this.#key), `value ${this.#key}`];
  }

  #newStream(): Stream {
    const stream = { xid: (this.#xid += 10), changes: [], isNew: true };
    this.#streams.set(stream.xid, stream);
    return stream;
  }

  #commit(transaction: Transaction): void {
    for (const change of transaction.changes) apply(this.#table, change);
    this.#done.push(transaction);
    this.states.set(transaction.endLsn, this.#table.sorted());
  }

  #send({ commitLsn, endLsn, changes }: Transaction): void {
    this.#message(beginMessage(commitLsn, ++this.#xid));
    for (const change of changes) this.#change(change);
    this.#message(commitMessage(commitLsn, endLsn));
  }

  #change({ kind, row }: Change, xid?: number): void {
    const bytes = tuple(row);
    if (kind === 'insert') this.#message(insertMessage(TABLE_OID, bytes, xid));
    else if (kind === 'update') this.#message(updateMessage(TABLE_OID, { after: bytes }, xid));
    else this.#message(deleteMessage(TABLE_OID, 'K', tuple([row[0] ?? null, null]), xid));
  }

  #message(bytes: Buffer): void {
    this.events.push({ type: 'message', bytes, walStart: this.#lsn });
  }

  #next(): bigint {
    return (this.#lsn += 10n);
  }
}

function apply(table: TableModel, { kind, row }: Change): void {
  if (kind === 'insert') table.insert(row);
  else if (kind === 'update') table.update(row, row);
  else table.delete(row);
}

/** A target in memory: one transaction at a time, progress and rows together. */
export class WorldTarget {
  readonly commits: { readonly endLsn: bigint; readonly rows: readonly string[] }[] = [];
  appliedLsn: bigint;
  /** Calls of apply and commit until the connection is lost; that one has no effect, or had all of it. */
  failAfter = Number.POSITIVE_INFINITY;
  isLostAfterEffect = false;
  applies = 0;
  #table = new TableModel([0]);
  #working: TableModel | undefined;

  constructor(start: bigint) {
    this.appliedLsn = start;
  }

  async apply(batch: ChangeBatch<FollowedTable>): Promise<void> {
    this.#maybeLose(false);
    this.applies += 1;
    const table = (this.#working ??= this.#table.copy());
    for (const change of batch.history) {
      if ('tables' in change) continue;
      const { tag, bytes, before, after } = change;
      if (tag === TAG.insert) table.insert(decodeTuple(bytes, after));
      else if (tag === TAG.delete) table.delete(decodeTuple(bytes, before));
      else table.update(decodeTuple(bytes, after), decodeTuple(bytes, after));
    }
  }

  async commit({ endLsn }: ApplyCommit): Promise<void> {
    if (!this.isLostAfterEffect) this.#maybeLose(false);
    this.#table = this.#working ?? this.#table;
    this.#working = undefined;
    this.appliedLsn = endLsn;
    this.commits.push({ endLsn, rows: this.#table.sorted() });
    if (this.isLostAfterEffect) this.#maybeLose(true);
  }

  async rollback(): Promise<void> {
    this.#working = undefined;
  }

  #maybeLose(isCommit: boolean): void {
    if (isCommit) this.isLostAfterEffect = false;
    if (this.failAfter-- > 0) return;
    this.failAfter = Number.POSITIVE_INFINITY;
    throw new OperatorError('CONNECTION_LOST', 'the target is gone');
  }
}
