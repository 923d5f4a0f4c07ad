/** A counter's recent speed: the last seconds count, so that a stall shows at once and a spike does not. */
export class RateWindow {
  readonly #spanMs: number;
  readonly #samples: { readonly atMs: number; readonly value: number }[] = [];

  constructor(spanMs = 5000) {
    this.#spanMs = spanMs;
  }

  /** `value` is the counter's total so far. */
  add(atMs: number, value: number): void {
    const last = this.#samples.at(-1);
    // A resumed or restarted counter begins anew.
    if (last !== undefined && value < last.value) this.#samples.length = 0;
    this.#samples.push({ atMs, value });
    while (this.#samples.length > 2 && (this.#samples[1]?.atMs ?? atMs) <= atMs - this.#spanMs) {
      this.#samples.shift();
    }
  }

  /** Per second, 0 until two samples with time between them are known. */
  perSecond(): number {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.atMs <= first.atMs) return 0;
    return ((last.value - first.value) * 1000) / (last.atMs - first.atMs);
  }
}
