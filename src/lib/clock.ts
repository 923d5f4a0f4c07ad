import { setTimeout as wait } from 'node:timers/promises';

/** Time as a dependency, so tests own it. Milliseconds throughout. */
export type Clock = {
  /**
   * Milliseconds since the Unix epoch. Never goes back nor leaps: deadlines and watchdogs are made of its
   * differences, and an operator, a hypervisor or NTP may set the system's clock at any moment.
   */
  readonly now: () => number;
  /** Rejects with `signal.reason` when aborted first. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
};

export const systemClock: Clock = {
  now: () => Math.round(performance.timeOrigin + performance.now()),
  sleep: async (ms, signal) => {
    signal.throwIfAborted();
    await wait(ms, undefined, { signal }).catch((error: unknown) => {
      signal.throwIfAborted();
      throw error;
    });
  },
};
