import type { Lsn } from '#src/core/lsn.ts';
import { orAborted } from '#src/lib/or-aborted.ts';

/**
 * Where the applier must stop: nowhere, at the next boundary between transactions, or before the first
 * transaction whose commit record starts at or after a position. A snapshot of the source at L holds
 * exactly the transactions with a smaller commitLsn, so `until L` makes the target equal to it (I4).
 *
 * The follower closes and opens the gate; the apply loop asks at each boundary, and tells when it stands.
 */
export type GateLimit =
  | { readonly kind: 'open' }
  | { readonly kind: 'now' }
  | { readonly kind: 'until'; readonly lsn: Lsn };

export class ApplyGate {
  #turn: Promise<void> = Promise.resolve();
  #limit: GateLimit = { kind: 'open' };
  #standing = newStanding();
  #handOvers = 0;
  readonly #listeners = new Set<() => void>();

  /**
   * Wait until nobody else has the gate; whoever closes it while others may has to. Disposing of the turn
   * gives it to the next, and leaves the limit as it is.
   */
  async claim(signal: AbortSignal): Promise<Disposable> {
    const before = this.#turn;
    const over = Promise.withResolvers<void>();
    this.#turn = before.then(async () => over.promise);
    try {
      await orAborted(before, signal);
    } catch (error) {
      over.resolve();
      throw error;
    }
    return { [Symbol.dispose]: () => over.resolve() };
  }

  /** Whether a transaction that commits at `commitLsn` has to wait. */
  isClosedFor(commitLsn: Lsn): boolean {
    if (this.#limit.kind === 'open') return false;
    return this.#limit.kind === 'now' || commitLsn >= this.#limit.lsn;
  }

  /** Whether nothing is left to apply, given that the source has nothing more before `position`. */
  isReachedAt(position: Lsn): boolean {
    return this.isClosedFor(position);
  }

  /**
   * Set the limit; resolves with the applied position when the loop stands at it. Rejects when the limit
   * changes before.
   */
  close(limit: Exclude<GateLimit, { kind: 'open' }>): Promise<Lsn> {
    this.#set(limit);
    return this.#standing.promise;
  }

  open(): void {
    this.#set({ kind: 'open' });
  }

  /** The loop stands, with everything before committed. */
  stand(applied: Lsn): void {
    this.#standing.resolve(applied);
  }

  /** How many tables lanes have handed over to the loop. */
  get handOvers(): number {
    return this.#handOvers;
  }

  /** The loop, which stands, is to apply the changes of one more table. */
  handedOver(): void {
    this.#handOvers += 1;
  }

  /** Call `listener` at each change of the limit. */
  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  #set(limit: GateLimit): void {
    const standing = this.#standing;
    this.#limit = limit;
    this.#standing = newStanding();
    standing.reject(new Error('the limit of the apply gate was changed'));
    for (const listener of this.#listeners) listener();
  }
}

/** Somebody may or may not wait for it, so its failure is not unhandled. */
function newStanding(): PromiseWithResolvers<Lsn> {
  const standing = Promise.withResolvers<Lsn>();
  standing.promise.catch(() => undefined);
  return standing;
}
