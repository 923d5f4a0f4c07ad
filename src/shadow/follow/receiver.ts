import type { Endpoint } from '#src/core/endpoint.ts';
import { type Lsn, lsn } from '#src/core/lsn.ts';
import { ANSWER_MS_MAX, openSession } from '#src/db/postgres/connection/session.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { startReplication, streamError } from '#src/db/postgres/replication/replication.ts';
import { endOurReader, readSlot } from '#src/db/postgres/replication/slot.ts';
import type { Clock } from '#src/lib/clock.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';
import { supervise } from '#src/lib/supervise.ts';
import type { SpoolWriter } from '#src/stream/spool/writer.ts';
import { BACKEND } from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import { encodeStandbyStatus } from '#src/wire/postgres/frontend.ts';
import { type CommitPoint, readCommitting, TAG } from '#src/wire/postgres/pgoutput.ts';
import {
  decodeKeepalive,
  KEEPALIVE,
  XLOG_DATA,
  XLOG_DATA_HEADER_BYTES,
} from '#src/wire/postgres/replication-message.ts';

import { requireSame, sourceBehind } from './failover.ts';

/**
 * From the source's stream into the spool, and the confirmations back.
 *
 *     read ─► append ─► flush (the applier sees it) ─► sync (every 100 ms) ─► confirm
 *
 * Confirmed is only what is durable in the spool (I12): the source may then discard its WAL although
 * the target has not applied it. A keepalive counts when nothing is in flight, and only once the spool
 * has recorded its position durably.
 *
 * A reader that keeps up makes the walsender send each change by itself, which costs the source three
 * to four times the CPU; so while behind it reads in ticks of 10 ms, and eagerly when not.
 */
export type ReceiverDeps = {
  readonly source: Endpoint;
  readonly applicationName: string;
  readonly slot: string;
  readonly publication: string;
  readonly binary: boolean;
  readonly systemId: string;
  readonly timeline: number;
  readonly writer: SpoolWriter;
  readonly clock: Clock;
  readonly log: Logger;
  readonly failpoints: Failpoints;
};

const SYNC_INTERVAL_MS = 100;
/** At the latest, a status goes out this often; the source also asks for one before it gives up. */
const STATUS_INTERVAL_MS = 5_000;
const TICK_MS = 10;
/** A read below this size means that the walsender waits for us, change by change. */
const SHORT_READ_BYTES = 64 * 1024;
const BEHIND_BYTES = 1024n * 1024n;
/** Our own heartbeats come back every few seconds, so a longer silence is a dead connection (pain 18). */
const SILENCE_MS_MAX = 60_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;

export class Receiver {
  readonly #deps: ReceiverDeps;
  /** The highest position that the source has sent anything about. */
  #receivedLsn: Lsn;
  /** Where the source's WAL ends, as somebody told us. */
  #headLsn = lsn(0n);
  #confirmedLsn = lsn(0n);
  #inTransaction = false;
  /** What this connection has to send first. */
  #witness: CommitPoint | undefined;
  #waitsForRoom = false;
  #isReplyWanted = false;
  #receivedAtMs: number;

  /** `known`: the end of what the target and the spool have. */
  constructor(deps: ReceiverDeps, known: Lsn) {
    this.#deps = deps;
    this.#receivedLsn = known;
    this.#receivedAtMs = deps.clock.now();
  }

  get receivedLsn(): Lsn {
    return this.#receivedLsn;
  }

  /** Tell where the source's WAL ends; decides how eagerly the stream is read. */
  setHead(head: Lsn): void {
    this.#headLsn = head;
  }

  /**
   * Receive from the end of the spool until aborted. A lost connection is made again, for `giveUpMs` at most.
   */
  async run(giveUpMs: number, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    let retryMs = RETRY_FIRST_MS;
    // Since the first failure, not since it last worked: a process that slept for long tries again, too.
    let brokenAtMs: number | undefined;
    for (;;) {
      try {
        await this.#stream(signal, () => {
          retryMs = RETRY_FIRST_MS;
          brokenAtMs = undefined;
        });
      } catch (error) {
        signal.throwIfAborted();
        brokenAtMs ??= clock.now();
        if (!isTransient(error) || clock.now() - brokenAtMs > giveUpMs) throw error;
        const code = error instanceof OperatorError ? error.code : 'unknown';
        log.warn({ code, retryMs }, 'the stream of the source was interrupted');
        if (code === 'SLOT_IN_USE') await this.#endFormerReader(signal);
      }
      await clock.sleep(retryMs, signal);
      retryMs = Math.min(2 * retryMs, RETRY_MAX_MS);
    }
  }

  /**
   * A walsender whose connection broke without a word holds the slot until its timeout. It is ours: who
   * has the lease is the only one to read this slot.
   */
  async #endFormerReader(signal: AbortSignal): Promise<void> {
    const { source, applicationName, slot } = this.#deps;
    try {
      await using session = await openSession(source, {
        applicationName,
        answerMsMax: ANSWER_MS_MAX,
      });
      const end = (): void => void session[Symbol.asyncDispose]();
      signal.addEventListener('abort', end, { once: true });
      const state = await readSlot(session, slot);
      if (state?.activePid !== undefined) await endOurReader(session, state.activePid);
    } catch (error) {
      if (!isTransient(error)) throw error;
    }
  }

  async #stream(signal: AbortSignal, onWorking: () => void): Promise<void> {
    const { writer, timeline, source, slot } = this.#deps;
    await using stream = await startReplication({
      endpoint: source,
      slot,
      publication: this.#deps.publication,
      startLsn: writer.appendedLsn,
      witnessLsn: writer.newestCommit?.commitLsn,
      binary: this.#deps.binary,
      applicationName: this.#deps.applicationName,
      systemId: this.#deps.systemId,
      signal,
    });
    if (stream.system.timeline !== timeline) {
      // Whether the shadow can go on there is decided by who opens a follower anew.
      throw new OperatorError(
        'TIMELINE_CHANGED',
        `the source is on timeline ${stream.system.timeline} now, it was on ${timeline}`,
      );
    }
    if (stream.headLsn < this.#receivedLsn) throw sourceBehind(stream.headLsn, this.#receivedLsn);
    this.#witness = stream.isWitnessed ? writer.newestCommit : undefined;
    // What an earlier connection left unfinished comes again.
    this.#inTransaction = false;
    this.#waitsForRoom = false;
    this.#receivedAtMs = this.#deps.clock.now();
    writer.reset();
    onWorking();
    await supervise(
      [
        async (end) => this.#receive(stream.connection, end, onWorking),
        async (end) => this.#confirm(stream.connection, end),
      ],
      signal,
    );
  }

  async #receive(
    connection: WireConnection,
    signal: AbortSignal,
    onWorking: () => void,
  ): Promise<void> {
    const { writer, clock } = this.#deps;
    const walker = new FrameWalker();
    for (;;) {
      const chunk = await connection.read(signal);
      if (chunk === undefined) {
        throw new OperatorError('CONNECTION_LOST', 'the source ended the stream');
      }
      this.#receivedAtMs = clock.now();
      walker.feed(chunk);
      let hasRoom = true;
      while (walker.next()) {
        if (walker.tag === BACKEND.copyData) hasRoom = this.#copyData(walker);
        else if (walker.tag === BACKEND.errorResponse) {
          throw streamError(connection.readError(walker), this.#deps.slot);
        } else if (walker.tag === BACKEND.copyDone) {
          throw new OperatorError('CONNECTION_LOST', 'the source is shutting down');
        }
      }
      await writer.flush();
      onWorking();
      if (!hasRoom) {
        this.#waitsForRoom = true;
        await writer.room(signal);
        this.#waitsForRoom = false;
        this.#receivedAtMs = clock.now();
      }
      const isBehind = this.#headLsn - this.#receivedLsn > BEHIND_BYTES;
      if (isBehind && chunk.length < SHORT_READ_BYTES) await clock.sleep(TICK_MS, signal);
    }
  }

  /** One message of the stream; whether the spool has room for more. */
  #copyData(frame: { readonly buffer: Buffer; readonly start: number; readonly end: number }) {
    const { buffer, start, end } = frame;
    const { writer } = this.#deps;
    if (buffer[start] === XLOG_DATA) {
      const walStart = buffer.readBigUInt64BE(start + 1);
      const payload = start + XLOG_DATA_HEADER_BYTES;
      const tag = buffer[payload];
      if (this.#witness !== undefined) this.#compare(this.#witness, buffer, payload);
      if (tag === TAG.begin) this.#inTransaction = true;
      else if (tag === TAG.commit) this.#inTransaction = false;
      else if (tag === TAG.streamStart) this.#inTransaction = true;
      else if (tag === TAG.streamStop) this.#inTransaction = false;
      if (walStart > this.#receivedLsn) this.#receivedLsn = lsn(walStart);
      return writer.append(buffer, payload, end, walStart);
    }
    if (buffer[start] === KEEPALIVE) {
      const { serverEndLsn, replyRequested } = decodeKeepalive(frame);
      // At half of its wal_sender_timeout, after which it gives us up.
      this.#isReplyWanted ||= replyRequested;
      if (serverEndLsn > this.#receivedLsn) this.#receivedLsn = serverEndLsn;
      // Between transactions a keepalive is past every one that was sent (never before: pain 1).
      if (!this.#inTransaction && this.#witness === undefined) return writer.advance(serverEndLsn);
    }
    return true;
  }

  /** Before anything of a committed transaction is appended. */
  #compare(witness: CommitPoint, buffer: Buffer, payload: number): void {
    const found = readCommitting(buffer, payload);
    if (found === undefined) return;
    requireSame(witness, found);
    this.#witness = undefined;
  }

  /** Make durable what came, and confirm it. */
  async #confirm(connection: WireConnection, signal: AbortSignal): Promise<void> {
    const { writer, clock, failpoints } = this.#deps;
    let sentAtMs = 0;
    for (;;) {
      const durable = await writer.sync();
      const now = clock.now();
      if (!this.#waitsForRoom && now - this.#receivedAtMs > SILENCE_MS_MAX) {
        throw new OperatorError('CONNECTION_LOST', 'the source has been silent for too long');
      }
      const isDue = now - sentAtMs >= STATUS_INTERVAL_MS || this.#isReplyWanted;
      if (durable > this.#confirmedLsn || isDue) {
        this.#isReplyWanted = false;
        failpoints.hit('receive.beforeConfirm');
        await connection.write(
          encodeStandbyStatus({
            written: this.#receivedLsn > durable ? this.#receivedLsn : durable,
            flushed: durable,
            applied: durable,
            clockMs: now,
            replyRequested: false,
          }),
        );
        failpoints.hit('receive.afterConfirm');
        this.#confirmedLsn = durable;
        sentAtMs = now;
      }
      await clock.sleep(SYNC_INTERVAL_MS, signal);
    }
  }
}

/** Whether trying again may help: the connection or the server was lost, not refused for good. */
function isTransient(error: unknown): boolean {
  return (
    error instanceof OperatorError &&
    (error.code === 'CONNECTION_LOST' ||
      error.code === 'CONNECTION_FAILED' ||
      error.code === 'SLOT_IN_USE')
  );
}
