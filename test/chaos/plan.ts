import { createRandom } from '#src/cli/demo/random.ts';
import type { Direction, Fault } from '#test/fault-proxy.ts';

/** What can happen to a shadow in a round; round.ts does it. */
export const DISTURBANCES = [
  'kill the process',
  'kill the process at a failpoint',
  'interrupt the process',
  'let the process sleep',
  'set the clock of the process',
  'end one connection to the source',
  'end one connection to the target',
  'end all connections to the source',
  'end all connections to the target',
  'disturb the link to the source',
  'disturb the link to the target',
  'disturb one connection to the source',
  'disturb one connection to the target',
  'crash the source',
  'crash the target',
  'crash the target and kill the process',
  'crash everything',
  'restart the source',
  'restart the target',
  'stop the source',
  'stop the target',
  'stop one process of the source',
  'stop one process of the target',
  'let the applying backend sleep',
  'let the keeper sleep',
  'fill the disk of the spool',
  'fill the disk of the target',
  'verify meanwhile',
  'verify all meanwhile',
  'repair meanwhile',
] as const;

export type DisturbanceName = (typeof DISTURBANCES)[number];

export type Plan = {
  readonly rows: number;
  /** As a role that may do no more than it must. */
  readonly isPlain: boolean;
  readonly steps: readonly {
    readonly name: DisturbanceName;
    /** What the step draws by itself comes from here, whatever the steps before it have met. */
    readonly seed: number;
    /** Before it; until the shadow is in step and then so long, where `awaitsStep` says so. */
    readonly pauseMs: number;
    readonly awaitsStep: boolean;
  }[];
};

/** What a round does, from its seed alone. */
export function planRound(seed: number, disturbances: number): Plan {
  const random = createRandom(seed);
  // Few, mostly; sometimes more than a part of the copy holds.
  const rows = Math.floor(random() ** 4 * 400_000);
  const isPlain = random() < 0.3;
  const steps = Array.from({ length: disturbances }, () => {
    const name = pick(random, DISTURBANCES);
    const awaitsStep = random() < 0.4;
    return {
      name,
      awaitsStep,
      pauseMs: Math.round(random() * (awaitsStep ? 1000 : 3000)),
      seed: Math.floor(random() * 2 ** 32),
    };
  });
  return { rows, isPlain, steps };
}

export function pick<T>(random: () => number, items: readonly T[]): T {
  const item = items[Math.floor(random() * items.length)];
  if (item === undefined) throw new Error('nothing to pick from');
  return item;
}

export function planFault(random: () => number): Fault {
  const where = pick<{ readonly direction?: Direction }>(random, [
    {},
    { direction: 'toServer' },
    { direction: 'toClient' },
  ]);
  const kinds: readonly (() => Fault)[] = [
    () => ({ kind: 'reset' }),
    () => ({ kind: 'end' }),
    () => ({ kind: 'abandon' }),
    () => ({ kind: 'blackhole', ...where }),
    () => ({ kind: 'delay', ms: 5 + Math.floor(random() * 200), ...where }),
    () => ({ kind: 'throttle', bytesPerSecond: 20_000 + Math.floor(random() * 500_000), ...where }),
    () => ({ kind: 'cutAfter', bytes: Math.floor(random() ** 3 * 100_000), ...where }),
    () => ({ kind: 'refuse' }),
  ];
  return pick(random, kinds)();
}
