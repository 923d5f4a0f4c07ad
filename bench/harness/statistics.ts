/** A reference that varies more than this, slowest by fastest, says nothing about anybody else. */
export const SPREAD_MAX = 1.3;
/** With fewer rounds a ratio is an indication. */
export const ROUNDS_MIN = 3;

export type Spread = {
  readonly median: number;
  readonly min: number;
  readonly max: number;
};

export type Ratio =
  | ({ readonly kind: 'ratio'; readonly isIndication: boolean } & Spread)
  | { readonly kind: 'refused'; readonly reason: string };

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const low = sorted[Math.floor(middle)] ?? Number.NaN;
  const high = sorted[Math.ceil(middle)] ?? Number.NaN;
  return {
    median: (low + high) / 2,
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
  };
}

/** How many times as fast as the reference: the median over the rounds, each compared within itself. */
export function ratioOf(reference: readonly number[], seconds: readonly number[]): Ratio {
  const { min, max } = spreadOf(reference);
  if (max / min > SPREAD_MAX) {
    return {
      kind: 'refused',
      reason: `no ratio: the reference itself spreads ${(max / min).toFixed(2)}x (limit ${SPREAD_MAX}x)`,
    };
  }
  const byRound = reference.map((one, round) => one / (seconds[round] ?? Number.NaN));
  return { kind: 'ratio', isIndication: byRound.length < ROUNDS_MIN, ...spreadOf(byRound) };
}
