import { expect, test } from 'vitest';

import { casesOf } from '#test/full.ts';
import type { TestVersion } from '#test/servers.ts';

import { runRound } from './round.ts';

type Seed = readonly [number, readonly [TestVersion, TestVersion]];

/** Fixed seeds, the first with a target's role that may do little; `npm run chaos` goes on with others. */
test.each(casesOf<Seed>([23, [15, 17]], [8, [14, 18]]))(
  'seed %i: a shadow survives whatever dies, in the copy and while it follows',
  { timeout: 180_000 },
  async (seed, versions) => {
    const lines: string[] = [];
    const wrong = await runRound({
      seed,
      versions,
      disturbances: 6,
      log: (line) => lines.push(line),
    });
    expect(wrong.length === 0 ? [] : [...lines, ...wrong]).toEqual([]);
  },
);
