/** One figure over time. */
export type Series = readonly { readonly atMs: number; readonly value: number }[];

export type Trend = {
  readonly verdict: 'flat' | 'growing' | 'too short';
  /** Of the fitted line, from the end of the warm-up to the end of the run. */
  readonly rise: number;
  readonly mean: number;
  /** How much of the ups and downs the line explains, 0 to 1. */
  readonly fit: number;
};

/** Buffers fill, code is compiled and caches warm up for so much of a run. */
const WARM_UP = 0.3;
const SAMPLES_MIN = 10;
/** A rise of less than this share of the mean is noise. */
const SHARE_MIN = 0.1;
/** A line that explains less than this is no line. */
const FIT_MIN = 0.4;

/** Whether a figure grows, by a least-squares line; a rise below `floor` is none, whatever the mean is. */
export function trendOf(series: Series, floor: number): Trend {
  const first = series[0]?.atMs ?? 0;
  const last = series.at(-1)?.atMs ?? 0;
  const from = first + (last - first) * WARM_UP;
  const kept = series.filter(({ atMs }) => atMs >= from);
  const mean = average(kept.map(({ value }) => value));
  if (kept.length < SAMPLES_MIN) return { verdict: 'too short', rise: 0, mean, fit: 0 };
  const middle = average(kept.map(({ atMs }) => atMs));
  const sumOf = (term: (one: Series[number]) => number): number =>
    kept.reduce((sum, one) => sum + term(one), 0);
  const xx = sumOf(({ atMs }) => (atMs - middle) ** 2);
  const xy = sumOf(({ atMs, value }) => (atMs - middle) * (value - mean));
  const yy = sumOf(({ value }) => (value - mean) ** 2);
  const rise = (xy / xx) * (last - from);
  const fit = yy === 0 ? 0 : xy ** 2 / (xx * yy);
  const isGrowing = fit >= FIT_MIN && rise > Math.max(floor, SHARE_MIN * Math.abs(mean));
  return { verdict: isGrowing ? 'growing' : 'flat', rise, mean, fit };
}

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}
