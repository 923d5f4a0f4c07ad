import { expect, test } from 'vitest';

import { casesOf, testFull } from '#test/full.ts';
import type { TestVersion } from '#test/servers.ts';

import { type HellOptions, runHell } from './hell.ts';

type Pair = readonly [TestVersion, TestVersion];
const PAIRS = casesOf<Pair>([14, 18], [18, 18]);
const ALL_PAIRS: readonly Pair[] = [
  [14, 18],
  [15, 18],
  [16, 18],
  [17, 18],
  [18, 18],
];

/** What was wrong, after what had happened until then. */
async function hell(
  versions: Pair,
  size: Pick<HellOptions, 'seconds' | 'kills'>,
): Promise<readonly string[]> {
  const lines: string[] = [];
  const startedMs = performance.now();
  const log = (line: string): void => {
    lines.push(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s  ${line}`);
  };
  const seed = versions[0] * 100 + versions[1];
  const hasDdlTriggers = versions[0] % 3 === 0;
  const wrong = await runHell({ ...size, versions, seed, hasDdlTriggers, log });
  return wrong.length === 0 ? [] : [...lines, ...wrong];
}

test.each(PAIRS)(
  'the schema from hell from %i to %i is equal, whatever is killed',
  { timeout: 600_000 },
  async (...versions) => {
    const size = { seconds: 6, kills: { copying: 1, following: 1 } };
    expect(await hell(versions, size)).toEqual([]);
  },
);

testFull.each(ALL_PAIRS)(
  'the schema from hell from %i to %i is equal after many kills',
  { timeout: 1_800_000 },
  async (...versions) => {
    const size = { seconds: 90, kills: { copying: 4, following: 12 } };
    expect(await hell(versions, size)).toEqual([]);
  },
);
