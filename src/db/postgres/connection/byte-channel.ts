import type { Socket } from 'node:net';

import { assert } from '#src/lib/assert.ts';

/** What a socket may hold unread, and unsent, before it stops taking more. */
export const SOCKET_BUFFER_BYTES = 256 * 1024;

const ACCEPTED = Promise.resolve();

/**
 * A socket that is pulled: bytes stay in its bounded buffer until `read` asks, so a slow reader slows
 * the peer down. Events only wake who waits; the work happens in the loop that called.
 */
export class ByteChannel {
  readonly #socket: Socket;
  /** Given back by `unread`, or read by a walker behind the message it looked for. */
  #unread: Buffer | undefined;
  #failure: Error | undefined;
  #isOver = false;
  #wakeReader: (() => void) | undefined;
  #wakeWriters: (() => void)[] = [];

  readonly #onReadable = (): void => this.#wakeReader?.();
  readonly #onOver = (): void => {
    this.#isOver = true;
    this.#wakeReader?.();
    this.#onDrain();
  };
  readonly #onError = (error: Error): void => {
    this.#failure ??= error;
    this.#onOver();
  };
  readonly #onDrain = (): void => {
    for (const wake of this.#wakeWriters.splice(0)) wake();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('readable', this.#onReadable);
    socket.on('end', this.#onOver);
    socket.on('close', this.#onOver);
    socket.on('error', this.#onError);
    socket.on('drain', this.#onDrain);
  }

  /** What has arrived, or undefined when nothing has, or nothing will. */
  tryRead(): Buffer | undefined {
    const unread = this.#unread;
    if (unread !== undefined) {
      this.#unread = undefined;
      return unread;
    }
    const chunk: Buffer | null = this.#socket.read();
    return chunk ?? undefined;
  }

  /**
   * The next bytes, all that have arrived; undefined at the end of the stream. Throws the socket's error,
   * or `signal.reason`.
   */
  async read(signal?: AbortSignal): Promise<Buffer | undefined> {
    for (;;) {
      const chunk = this.tryRead();
      if (chunk !== undefined) return chunk;
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#isOver) return undefined;
      signal?.throwIfAborted();
      await this.#readable(signal);
    }
  }

  /** Give bytes back, to be read first. At most once between two reads. */
  unread(bytes: Buffer): void {
    if (bytes.length === 0) return;
    assert(this.#unread === undefined, 'bytes were given back twice');
    this.#unread = bytes;
  }

  /**
   * Send; resolves when the socket takes more, at once unless its buffer is full. The memory belongs to
   * the socket from now on. Throws the socket's error.
   */
  write(bytes: Buffer | readonly Buffer[]): Promise<void> {
    const socket = this.#socket;
    if (this.#isOver || !socket.writable) return Promise.reject(this.#writeError());
    if (Buffer.isBuffer(bytes)) {
      socket.write(bytes);
    } else {
      socket.cork();
      for (const part of bytes) socket.write(part);
      socket.uncork();
    }
    return socket.writableNeedDrain ? this.#drained() : ACCEPTED;
  }

  /** Let go of the socket; what `unread` gave back is lost. */
  release(): void {
    const socket = this.#socket;
    socket.off('readable', this.#onReadable);
    socket.off('end', this.#onOver);
    socket.off('close', this.#onOver);
    socket.off('error', this.#onError);
    socket.off('drain', this.#onDrain);
  }

  async #readable(signal: AbortSignal | undefined): Promise<void> {
    assert(this.#wakeReader === undefined, 'a channel has one reader');
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wakeReader = resolve;
    signal?.addEventListener('abort', this.#onReadable, { once: true });
    await promise;
    signal?.removeEventListener('abort', this.#onReadable);
    this.#wakeReader = undefined;
  }

  async #drained(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wakeWriters.push(resolve);
    });
    if (this.#isOver) throw this.#writeError();
  }

  #writeError(): Error {
    return this.#failure ?? new Error('the connection is closed');
  }
}
