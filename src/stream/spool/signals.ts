/** Wakes everybody who waits for "something changed"; each waiter looks for itself what did. */
export class Changes {
  readonly #waiters = new Set<() => void>();

  notify(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  /** Rejects with `signal.reason` when aborted first. Look at the state before, in the same tick. */
  async next(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const stop = (): void => {
      this.#waiters.delete(resolve);
      reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    };
    this.#waiters.add(resolve);
    signal.addEventListener('abort', stop, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }
}

type Waiter = {
  readonly target: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
};

/** A count that only grows, and those who wait until it has reached something. */
export class Milestone {
  #value = 0;
  #waiters: Waiter[] = [];

  get value(): number {
    return this.#value;
  }

  /** The least that somebody waits for. */
  get awaited(): number | undefined {
    return this.#waiters.reduce<number | undefined>(
      (least, { target }) => (least === undefined ? target : Math.min(least, target)),
      undefined,
    );
  }

  async reach(target: number): Promise<void> {
    if (this.#value >= target) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiters.push({ target, resolve, reject });
    await promise;
  }

  advance(value: number): void {
    this.#value = Math.max(this.#value, value);
    const reached = this.#waiters.filter((waiter) => waiter.target <= value);
    this.#waiters = this.#waiters.filter((waiter) => waiter.target > value);
    for (const waiter of reached) waiter.resolve();
  }

  /** Turn away everybody who waits now; who comes later waits anew. */
  fail(error: Error): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
  }
}
