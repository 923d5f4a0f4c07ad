/** A named place before or after an effect, where a test can make the process die. */
export type Failpoints = {
  /** Does nothing, unless this name was armed and its count is reached: then the process dies at once. */
  readonly hit: (name: string) => void;
};

/** For parts that are used without any, in benchmarks and tests. */
export const NO_FAILPOINTS: Failpoints = { hit: () => undefined };

/**
 * Parse `name` or `name:3` (die at the third hit); several are separated by commas. The death is
 * SIGKILL: nothing is flushed and no handler runs, as in a power cut.
 */
export function createFailpoints(
  spec: string | undefined,
  die: () => void = () => process.kill(process.pid, 'SIGKILL'),
): Failpoints {
  const remaining = new Map<string, number>();
  for (const item of (spec ?? '').split(',').filter((text) => text !== '')) {
    const [name, count] = item.split(':');
    remaining.set(name ?? item, count === undefined ? 1 : Number(count));
  }
  return {
    hit: (name) => {
      const left = remaining.get(name);
      if (left === undefined) return;
      remaining.set(name, left - 1);
      if (left === 1) die();
    },
  };
}
