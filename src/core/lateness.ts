/**
 * Whether a shadow is late: further behind its source than was asked for. It is late when the lag passes
 * the tolerance, and in time again at half of that, so that a lag around the tolerance changes nothing.
 */

/** What is known of the lag: at least so much, and no more when `isExact`. */
export type KnownLag = { readonly lagMs: number; readonly isExact: boolean };

/** `toleranceMs` 0: there is none, so it is never late. */
export function stepLateness(isLate: boolean, lag: KnownLag, toleranceMs: number): boolean {
  if (toleranceMs === 0) return false;
  if (lag.lagMs > toleranceMs) return true;
  return isLate && (!lag.isExact || lag.lagMs > toleranceMs / 2);
}
