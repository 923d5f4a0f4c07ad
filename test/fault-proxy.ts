import { once } from 'node:events';
import { createServer, type Server, Socket } from 'node:net';

import type { Endpoint } from '#src/core/endpoint.ts';

/**
 * A network that fails: a TCP proxy between us and a server, whose links can be cut, muted, slowed.
 *
 *     reset      both ends get an RST
 *     end        both ends get an orderly FIN behind what was sent
 *     abandon    the client gets an RST, the server hears nothing more and keeps its end (half-open)
 *     blackhole  bytes vanish without a word, as behind a firewall that forgot the connection
 *     delay      each byte arrives later; order and throughput stay
 *     throttle   so many bytes a second
 *     cutAfter   so many bytes from now on pass, wherever that is in a message, then a reset
 *     refuse     new connections are reset at once
 *
 * A fault holds for the links that are there and those that come, until it is removed. A link that has
 * lost bytes is reset when its fault is removed: TCP never delivers what comes behind a gap.
 */
export type Direction = 'toServer' | 'toClient';

export type Fault = {
  /** By the `application_name` of the connection; all when absent, also before the name is known. */
  readonly links?: RegExp;
  /** Both when absent. */
  readonly direction?: Direction;
} & (
  | { readonly kind: 'reset' | 'end' | 'abandon' | 'blackhole' | 'refuse' }
  | { readonly kind: 'delay'; readonly ms: number }
  | { readonly kind: 'throttle'; readonly bytesPerSecond: number }
  | { readonly kind: 'cutAfter'; readonly bytes: number }
);

export type FaultProxy = AsyncDisposable & {
  /** The same server, by way of the proxy. */
  readonly endpoint: Endpoint;
  /** The names of the connections that are open. */
  readonly links: () => readonly string[];
  readonly inject: (fault: Fault) => Disposable;
  /**
   * Call `action` when `text` is about to pass on such a link; what it injects holds from this chunk on.
   * Once, unless it is asked again.
   */
  readonly onText: (
    where: { readonly links: RegExp; readonly direction: Direction; readonly text: string },
    action: () => void,
  ) => void;
  /** Remove every fault. */
  readonly heal: () => void;
};

/** Beyond this a direction does not read on, as the buffers of a real network are bounded. */
const QUEUE_BYTES_MAX = 4 * 1024 * 1024;
const THROTTLE_TICK_MS = 20;
const DIRECTIONS = ['toServer', 'toClient'] as const;

export async function startFaultProxy(server: Endpoint): Promise<FaultProxy> {
  const faults = new Set<Fault>();
  const links = new Set<Link>();
  const watches = new Set<Watch>();
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    const isRefused = [...faults].some(
      (fault) => fault.kind === 'refuse' && fault.links === undefined,
    );
    client.on('error', () => undefined);
    if (isRefused) {
      client.resetAndDestroy();
      return;
    }
    const upstream = new Socket({ allowHalfOpen: true });
    upstream.connect(server.port, server.host);
    const link = new Link(client, upstream, faults, watches);
    links.add(link);
    void link.closed.then(() => links.delete(link));
  });
  const port = await listen(listener);
  const remove = (fault: Fault): void => {
    if (!faults.delete(fault)) return;
    for (const link of links) link.onRemoved(fault);
  };
  return {
    endpoint: { ...server, host: '127.0.0.1', port },
    links: () => [...links].map(({ name }) => name),
    inject: (fault) => {
      const isLasting = !['reset', 'end', 'abandon'].includes(fault.kind);
      if (isLasting) faults.add(fault);
      for (const link of links) if (link.isMeant(fault)) link.onInjected(fault);
      return { [Symbol.dispose]: () => remove(fault) };
    },
    onText: (where, action) => {
      watches.add({ ...where, action });
    },
    heal: () => {
      for (const fault of faults) remove(fault);
    },
    async [Symbol.asyncDispose]() {
      const closed = once(listener, 'close');
      listener.close();
      for (const link of links) link.reset();
      await closed;
    },
  };
}

async function listen(listener: Server): Promise<number> {
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('no TCP port to listen on');
  return address.port;
}

type Watch = {
  readonly links: RegExp;
  readonly direction: Direction;
  readonly text: string;
  readonly action: () => void;
};

class Link {
  readonly closed: Promise<void>;
  name = '';
  readonly #ends: Readonly<Record<Direction, { readonly from: Socket; readonly to: Socket }>>;
  readonly #pipes: Readonly<Record<Direction, Pipe>>;
  readonly #faults: ReadonlySet<Fault>;
  readonly #watches: Set<Watch>;
  readonly #left = new Map<Fault, number>();
  #isAbandoned = false;
  #hasLost = false;

  constructor(client: Socket, upstream: Socket, faults: ReadonlySet<Fault>, watches: Set<Watch>) {
    this.#faults = faults;
    this.#watches = watches;
    this.#ends = {
      toServer: { from: client, to: upstream },
      toClient: { from: upstream, to: client },
    };
    this.#pipes = { toServer: new Pipe(upstream), toClient: new Pipe(client) };
    this.closed = this.#close(client, upstream);
    for (const direction of DIRECTIONS) this.#read(direction);
    client.resume();
  }

  isMeant(fault: Fault): boolean {
    return fault.links?.test(this.name) ?? true;
  }

  reset(): void {
    for (const { from } of Object.values(this.#ends)) from.resetAndDestroy();
  }

  onInjected(fault: Fault): void {
    if (fault.kind === 'reset') this.reset();
    else if (fault.kind === 'end') for (const pipe of Object.values(this.#pipes)) pipe.end();
    else if (fault.kind === 'abandon') {
      this.#isAbandoned = true;
      this.#ends.toServer.from.resetAndDestroy();
    }
  }

  onRemoved(fault: Fault): void {
    if (this.#hasLost && this.isMeant(fault)) this.reset();
  }

  #read(direction: Direction): void {
    const { from } = this.#ends[direction];
    const pipe = this.#pipes[direction];
    from.setNoDelay(true);
    from.on('data', (chunk: Buffer) => {
      if (this.name === '' && direction === 'toServer') this.name = applicationName(chunk);
      this.#notice(direction, chunk);
      this.#pass(direction, chunk);
      if (!pipe.isFull) return;
      from.pause();
      void pipe.drained().then(() => from.resume());
    });
    from.on('end', () => {
      if (this.#isMuted(direction)) this.#hasLost = true;
      else pipe.end();
    });
  }

  #pass(direction: Direction, chunk: Buffer): void {
    let passing = chunk;
    let delayMs = 0;
    let bytesPerSecond = Infinity;
    for (const fault of this.#faults) {
      if (!this.isMeant(fault) || (fault.direction ?? direction) !== direction) continue;
      if (fault.kind === 'blackhole') {
        this.#hasLost = true;
        return;
      }
      if (fault.kind === 'delay') delayMs += fault.ms;
      if (fault.kind === 'throttle') bytesPerSecond = fault.bytesPerSecond;
      if (fault.kind === 'cutAfter') {
        const left = this.#left.get(fault) ?? fault.bytes;
        this.#left.set(fault, left - passing.length);
        if (left < passing.length) {
          passing = passing.subarray(0, Math.max(0, left));
          this.#pipes[direction].push(passing, { delayMs, bytesPerSecond });
          // After what has passed is on its way.
          setImmediate(() => this.reset());
          return;
        }
      }
    }
    this.#pipes[direction].push(passing, { delayMs, bytesPerSecond });
  }

  #isMuted(direction: Direction): boolean {
    return [...this.#faults].some(
      (fault) =>
        fault.kind === 'blackhole' &&
        this.isMeant(fault) &&
        (fault.direction ?? direction) === direction,
    );
  }

  /** A text that is cut in two by the end of a chunk is not noticed: what is looked for comes in one. */
  #notice(direction: Direction, chunk: Buffer): void {
    for (const watch of this.#watches) {
      if (watch.direction !== direction || !watch.links.test(this.name)) continue;
      if (!chunk.includes(watch.text)) continue;
      this.#watches.delete(watch);
      watch.action();
    }
  }

  async #close(client: Socket, upstream: Socket): Promise<void> {
    const gone = [client, upstream].map(async (socket, i) => {
      socket.on('error', () => undefined);
      await once(socket, 'close').catch(() => undefined);
      const other = i === 0 ? upstream : client;
      // One that was broken off breaks the other, unless nobody is to hear of it.
      if (this.#isAbandoned || this.#isMuted(i === 0 ? 'toServer' : 'toClient'))
        this.#hasLost = true;
      else other.destroy();
    });
    await Promise.all(gone);
  }
}

type Pace = { readonly delayMs: number; readonly bytesPerSecond: number };

/** What is on its way in one direction. */
class Pipe {
  readonly #to: Socket;
  readonly #queue: { bytes: Buffer; readonly dueMs: number; readonly bytesPerSecond: number }[] =
    [];
  #bytes = 0;
  #isEnding = false;
  #isRunning = false;
  #wake: (() => void)[] = [];

  constructor(to: Socket) {
    this.#to = to;
  }

  get isFull(): boolean {
    return this.#bytes > QUEUE_BYTES_MAX || this.#to.writableNeedDrain;
  }

  push(bytes: Buffer, { delayMs, bytesPerSecond }: Pace): void {
    if (this.#queue.length === 0 && delayMs === 0 && bytesPerSecond === Infinity) {
      this.#to.write(bytes);
      return;
    }
    this.#bytes += bytes.length;
    this.#queue.push({ bytes, dueMs: performance.now() + delayMs, bytesPerSecond });
    void this.#run();
  }

  /** FIN behind what is on its way. */
  end(): void {
    this.#isEnding = true;
    if (this.#queue.length === 0) this.#to.end();
  }

  async drained(): Promise<void> {
    while (this.isFull && !this.#to.destroyed) {
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        this.#to.once('drain', resolve);
        this.#to.once('close', resolve);
      });
    }
  }

  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (this.#to.destroyed) break;
      const waitMs = next.dueMs - performance.now();
      if (waitMs > 0) {
        await new Promise((resolve) => setTimeout(resolve, waitMs));
        continue;
      }
      const room = Math.ceil((next.bytesPerSecond * THROTTLE_TICK_MS) / 1000);
      const piece = next.bytes.subarray(0, room);
      this.#to.write(piece);
      this.#bytes -= piece.length;
      next.bytes = next.bytes.subarray(piece.length);
      if (next.bytes.length === 0) this.#queue.shift();
      for (const wake of this.#wake.splice(0)) wake();
      if (room !== Infinity) await new Promise((resolve) => setTimeout(resolve, THROTTLE_TICK_MS));
    }
    this.#isRunning = false;
    if (this.#isEnding) this.#to.end();
  }
}

/** Of a startup message, which is a list of strings that each end with a zero byte. */
function applicationName(startup: Buffer): string {
  const words = startup.subarray(8).toString('latin1').split('\0');
  const at = words.indexOf('application_name');
  return at < 0 ? '' : (words[at + 1] ?? '');
}
