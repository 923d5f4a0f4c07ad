import { OperatorError } from '#src/lib/errors.ts';
import type { SpoolBlock, SpoolPosition } from '#src/stream/spool/format.ts';

/** A part of a streamed transaction: messages [from, to) of the block at `position`. */
export type Extent = {
  readonly position: SpoolPosition;
  readonly from: number;
  readonly to: number;
};

/** A streamed transaction that has not ended: where it lies in the spool, and what of it is void. */
export type OpenStream = {
  readonly extents: Extent[];
  /** Subtransactions that were rolled back after they had been streamed. */
  readonly abortedXids: Set<number>;
  /** Reading began behind its start: it must end in an abort, or be applied already. */
  readonly isVoid: boolean;
};

/**
 * The streamed transactions that are open (trap 17). Their blocks stay in the spool until the commit;
 * memory holds one extent a block.
 */
export class OpenStreams {
  readonly #streams = new Map<number, OpenStream>();
  #current: { readonly stream: OpenStream; from: number } | undefined;

  /** Between Stream Start and Stream Stop. */
  get isInBlock(): boolean {
    return this.#current !== undefined;
  }

  /** Stream Start: the messages from `from` on are the stream's. */
  start(xid: number, isFirst: boolean, from: number): void {
    let stream = this.#streams.get(xid);
    if (stream === undefined) {
      stream = { extents: [], abortedXids: new Set(), isVoid: !isFirst };
      this.#streams.set(xid, stream);
    }
    this.#current = { stream, from };
  }

  /** A spool block begins; a stream that is under way has all of it until its end. */
  beginSpoolBlock(): void {
    if (this.#current !== undefined) this.#current.from = 0;
  }

  /** The stream's messages of this spool block end before message `to`. */
  endExtent(block: SpoolBlock, to: number): void {
    if (this.#current === undefined) return;
    const { stream, from } = this.#current;
    if (to > from) stream.extents.push({ position: block.position, from, to });
  }

  /** Stream Stop. */
  stop(): void {
    this.#current = undefined;
  }

  abort({ xid, subXid }: { readonly xid: number; readonly subXid: number }): void {
    if (xid === subXid) this.#streams.delete(xid);
    else this.#streams.get(xid)?.abortedXids.add(subXid);
  }

  /** The stream that commits; it is open no more. Throws PROTOCOL_VIOLATION unless all of it was read. */
  take(xid: number): OpenStream {
    const stream = this.#streams.get(xid);
    this.#streams.delete(xid);
    if (stream !== undefined && !stream.isVoid) return stream;
    throw new OperatorError(
      'PROTOCOL_VIOLATION',
      `streamed transaction ${xid} commits, but its beginning was not read`,
    );
  }

  /** It was applied before. */
  forget(xid: number): void {
    this.#streams.delete(xid);
  }

  /** A new connection: what is open comes again. */
  clear(): void {
    this.#streams.clear();
    this.#current = undefined;
  }
}
