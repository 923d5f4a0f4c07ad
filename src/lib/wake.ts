import type { Clock } from './clock.ts';

/** A sleep that somebody else may end early. */
export class Wake {
  #controller = new AbortController();

  /** End the sleep that is under way, or else the next one. */
  wake(): void {
    this.#controller.abort();
  }

  /** Rejects with `signal.reason` when aborted first. */
  async sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
    const woken = this.#controller.signal;
    try {
      await clock.sleep(ms, AbortSignal.any([signal, woken]));
    } catch (error) {
      signal.throwIfAborted();
      if (!woken.aborted) throw error;
    }
    this.#controller = new AbortController();
  }
}
