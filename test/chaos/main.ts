import { parseArgs } from 'node:util';

import { embeddedVersions } from '#src/provision/embedded-postgres.ts';
import { TEST_VERSIONS, type TestVersion } from '#test/servers.ts';

import { runRound } from './round.ts';

// `npm run chaos -- [--seed N] [--minutes M] [--disturbances N] [--verbose]`: seed after seed, until one
// fails, the time is over or Ctrl-C, which waits for the round under way. One line a round.

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    /** Without it: until told to stop. */
    minutes: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    disturbances: { type: 'string', default: '12' },
  },
});

/** Every pair of majors that may follow each other, in turn. */
function pairs(): readonly (readonly [TestVersion, TestVersion])[] {
  const installed = new Set<number>(embeddedVersions());
  const versions = TEST_VERSIONS.filter((version) => installed.has(version));
  return versions.flatMap((from) =>
    versions.filter((to) => to >= from).map((to) => [from, to] as const),
  );
}

const deadlineMs =
  values.minutes === undefined ? Infinity : performance.now() + Number(values.minutes) * 60_000;
const all = pairs();
const first = values.seed === undefined ? Math.floor(Date.now() / 1000) : Number(values.seed);
const disturbances = Number(values.disturbances);
const stopping = new AbortController();
process.once('SIGINT', () => stopping.abort());
let rounds = 0;
for (
  let seed = first;
  !stopping.signal.aborted && (performance.now() < deadlineMs || rounds === 0);
  seed += 1, rounds += 1
) {
  const versions = all[seed % all.length] ?? [18, 18];
  const lines: string[] = [];
  const log = (line: string): void => {
    lines.push(line);
    if (values.verbose) print(line);
  };
  const startedMs = performance.now();
  const wrong = await runRound({ seed, versions, disturbances, log }).catch((error: unknown) => [
    error instanceof Error ? (error.stack ?? error.message) : String(error),
  ]);
  const seconds = Math.round((performance.now() - startedMs) / 1000);
  const verdict = wrong.length === 0 ? 'passed' : 'FAILED';
  print(`seed ${seed} ${versions.join(' to ')}: ${verdict} in ${seconds} s`);
  if (wrong.length === 0) continue;
  if (!values.verbose) lines.forEach(print);
  wrong.forEach((line) => print(`  ${line}`));
  print(
    `to try it again: npm run chaos -- --seed ${seed} --minutes 0 --disturbances ${disturbances}`,
  );
  process.exit(1);
}
print(`${rounds} rounds passed`);

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
