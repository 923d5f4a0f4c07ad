import {
  beginMessage,
  commitMessage,
  streamAbortMessage,
  streamCommitMessage,
  streamStartMessage,
  streamStopMessage,
} from './pgoutput-encoder.ts';

/**
 * A source that speaks pgoutput (protocol 2) from a script, for testing what carries the stream. It keeps
 * the same books as pgoutput.c: a Relation is sent once per connection, inside a stream once per stream
 * until it commits or something of it aborts, and again after the table changed.
 */

/** What a whole transaction did, for comparing what arrived with what was sent. */
export type SentTransaction = { readonly endLsn: bigint; readonly rows: readonly string[] };

type Row = { readonly subxid: number; readonly label: string };
type Stream = { readonly xid: number; rows: Row[]; sent: Map<number, number> };

export type SourceEvent =
  | { readonly type: 'message'; readonly bytes: Buffer; readonly walStart: bigint }
  | { readonly type: 'reset' }
  | { readonly type: 'position'; readonly endLsn: bigint };

const TABLES = 3;

export class ScriptedSource {
  readonly events: SourceEvent[] = [];
  /** In commit order, each once. */
  readonly committed: SentTransaction[] = [];
  #lsn: bigint;
  #xid = 700;
  #label = 0;
  readonly #versions = new Map<number, number>();
  #sent = new Map<number, number>();
  readonly #streams = new Map<number, Stream>();

  constructor(start: bigint) {
    this.#lsn = start;
  }

  /** A transaction that is not streamed; with `cutAfter`, the connection ends after so many rows. */
  transaction(rows: readonly RowSpec[], cutAfter?: number): void {
    const sent: string[] = [];
    this.#message(beginMessage(this.#next(), ++this.#xid));
    for (const [index, row] of rows.entries()) {
      if (index === cutAfter) return this.reconnect(0);
      sent.push(this.#row(row, undefined));
    }
    const endLsn = this.#next();
    this.#message(commitMessage(endLsn - 1n, endLsn));
    this.committed.push({ endLsn, rows: sent });
  }

  /** One block of a stream; a new one when `which` names none that is open. */
  streamBlock(which: number, rows: readonly RowSpec[], cutAfter?: number): void {
    const known = [...this.#streams.values()][which];
    const stream = known ?? { xid: (this.#xid += 10), rows: [], sent: new Map<number, number>() };
    this.#streams.set(stream.xid, stream);
    this.#message(streamStartMessage(stream.xid, known === undefined));
    for (const [index, row] of rows.entries()) {
      if (index === cutAfter) return this.reconnect(0);
      const label = this.#row(row, stream);
      stream.rows.push({ subxid: stream.xid + row.subtransaction, label });
    }
    this.#message(streamStopMessage());
  }

  streamCommit(which: number): void {
    const stream = [...this.#streams.values()][which];
    if (!stream) return;
    const endLsn = this.#next();
    this.#message(streamCommitMessage(stream.xid, endLsn - 1n, endLsn));
    this.#streams.delete(stream.xid);
    for (const [table, version] of stream.sent) this.#sent.set(table, version);
    this.committed.push({ endLsn, rows: stream.rows.map((row) => row.label) });
  }

  /** All of a stream, or with `subtransaction` > 0 what that one did. */
  streamAbort(which: number, subtransaction: number): void {
    const stream = [...this.#streams.values()][which];
    if (!stream) return;
    const subxid = stream.xid + subtransaction;
    this.#message(streamAbortMessage(stream.xid, subxid));
    stream.rows = stream.rows.filter((row) => row.subxid !== subxid);
    stream.sent.clear();
    if (subtransaction === 0) this.#streams.delete(stream.xid);
  }

  /** The table has another shape from now on. Not while a stream uses it: that holds a lock. */
  alter(table: number): void {
    if ([...this.#streams.values()].some((stream) => stream.sent.has(table))) return;
    this.#versions.set(table, this.#version(table) + 1);
    this.#sent.delete(table);
  }

  keepalive(): void {
    this.events.push({ type: 'position', endLsn: this.#next() });
  }

  /** A new connection: `again` transactions, which were not confirmed, are sent once more. */
  reconnect(again: number): void {
    this.events.push({ type: 'reset' });
    this.#sent = new Map();
    this.#streams.clear();
    const repeated = again === 0 ? [] : this.committed.slice(-again);
    for (const { endLsn, rows } of repeated) {
      this.#message(beginMessage(endLsn, ++this.#xid));
      for (const label of rows) this.#send(label, undefined, this.#xid);
      this.#message(commitMessage(endLsn - 1n, endLsn));
    }
  }

  #row(row: RowSpec, stream: Stream | undefined): string {
    const table = row.table % TABLES;
    const label = `${++this.#label}:${table}:${this.#version(table)}:${'x'.repeat(row.bytes)}`;
    this.#send(label, stream, (stream?.xid ?? 0) + row.subtransaction);
    return label;
  }

  #send(label: string, stream: Stream | undefined, subxid: number): void {
    const [, table = 0, version = 0] = label.split(':').map(Number);
    const sent = stream?.sent ?? this.#sent;
    const prefix = stream ? u32(subxid) : Buffer.alloc(0);
    if (sent.get(table) !== version) {
      this.#message(tagged('Y', prefix, u32(900 + table), Buffer.from(`${version}`)));
      this.#message(tagged('R', prefix, u32(table), Buffer.from(`${version}`)));
      sent.set(table, version);
    }
    this.#message(tagged('I', prefix, u32(table), Buffer.from(label)));
  }

  #version(table: number): number {
    return this.#versions.get(table) ?? 1;
  }

  #message(bytes: Buffer): void {
    this.events.push({ type: 'message', bytes, walStart: this.#lsn });
  }

  #next(): bigint {
    return (this.#lsn += 10n);
  }
}

export type RowSpec = {
  readonly table: number;
  readonly bytes: number;
  /** 0: of the transaction itself. */
  readonly subtransaction: number;
};

/**
 * Reads the stream as an applier does and returns the transactions with a commit end after `applied`.
 * Throws when a row would be read with another Relation than the source meant.
 */
export class ScriptedTarget {
  readonly transactions: SentTransaction[] = [];
  #applied: bigint;
  readonly #relations = new Map<number, string>();
  #rows: string[] | undefined;
  #stream: TargetStream | undefined;
  readonly #streams = new Map<number, TargetStream>();

  readonly #keepsRelations: boolean;

  /**
   * `spooled`: the spool repeats the Relations of a stream behind its commit, so the target need not
   * remember them.
   */
  constructor(applied: bigint, from: 'source' | 'spooled') {
    this.#applied = applied;
    this.#keepsRelations = from === 'source';
  }

  reset(): void {
    if (!this.#keepsRelations && (this.#rows || this.#stream)) {
      throw new Error('a transaction that is cut off was read although that was known');
    }
    this.#rows = undefined;
    this.#stream = undefined;
    this.#streams.clear();
  }

  message(bytes: Buffer): void {
    const tag = bytes.toString('latin1', 0, 1);
    if (tag === 'B') this.#rows = [];
    else if (tag === 'C') this.#commit(bytes.readBigUInt64BE(10), this.#rows ?? []);
    else if (tag === 'S') this.#startStream(bytes.readUInt32BE(1), bytes[5] === 1);
    else if (tag === 'E') this.#stream = undefined;
    else if (tag === 'c') this.#commitStream(bytes.readUInt32BE(1), bytes.readBigUInt64BE(14));
    else if (tag === 'A') this.#abortStream(bytes.readUInt32BE(1), bytes.readUInt32BE(5));
    else this.#content(tag, bytes);
  }

  #content(tag: string, bytes: Buffer): void {
    const stream = this.#stream;
    const at = stream ? 5 : 1;
    const table = bytes.readUInt32BE(at);
    const rest = bytes.toString('latin1', at + 4);
    const relations = stream?.relations ?? this.#relations;
    if (tag === 'R') relations.set(table, rest);
    if (tag !== 'I' || stream?.isVoid) return;
    const version = rest.split(':')[2];
    if (relations.get(table) !== version) {
      throw new Error(`row of version ${version} read as ${relations.get(table)}`);
    }
    if (stream) stream.rows.push({ subxid: bytes.readUInt32BE(1), label: rest });
    else this.#rows?.push(rest);
  }

  #commit(endLsn: bigint, rows: readonly string[]): void {
    this.#rows = undefined;
    if (endLsn <= this.#applied) return;
    this.#applied = endLsn;
    this.transactions.push({ endLsn, rows });
  }

  #startStream(xid: number, isFirst: boolean): void {
    const started = { isVoid: !isFirst, rows: [], relations: new Map<number, string>() };
    const stream = this.#streams.get(xid) ?? started;
    this.#streams.set(xid, stream);
    this.#stream = stream;
  }

  #commitStream(xid: number, endLsn: bigint): void {
    const stream = this.#streams.get(xid);
    this.#streams.delete(xid);
    if (this.#keepsRelations) {
      for (const [table, relation] of stream?.relations ?? []) this.#relations.set(table, relation);
    }
    if (stream?.isVoid !== false && endLsn > this.#applied) {
      throw new Error(`stream ${xid} commits at ${endLsn} but its start was not read`);
    }
    const rows = stream?.rows ?? [];
    this.#commit(
      endLsn,
      rows.map((row) => row.label),
    );
  }

  #abortStream(xid: number, subxid: number): void {
    const stream = this.#streams.get(xid);
    if (xid === subxid) this.#streams.delete(xid);
    else if (stream) stream.rows = stream.rows.filter((row) => row.subxid !== subxid);
  }
}

type TargetStream = {
  /** Reading began behind its start. */
  readonly isVoid: boolean;
  rows: Row[];
  readonly relations: Map<number, string>;
};

function tagged(tag: string, ...parts: readonly Buffer[]): Buffer {
  return Buffer.concat([Buffer.from(tag, 'latin1'), ...parts]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
