import { parseArgs } from 'node:util';

import { embeddedVersions } from '#src/provision/embedded-postgres.ts';
import { TEST_VERSIONS, type TestVersion } from '#test/servers.ts';

import { runRound } from './round.ts';

// `npm run chaos -- [--seed N] [--minutes M] [--disturbances N]`: seed after seed, until one fails.

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    minutes: { type: 'string', default: '10' },
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

const deadlineMs = performance.now() + Number(values.minutes) * 60_000;
const all = pairs();
const first = values.seed === undefined ? Math.floor(Date.now() / 1000) : Number(values.seed);
let rounds = 0;
for (let seed = first; performance.now() < deadlineMs || rounds === 0; seed += 1) {
  const versions = all[seed % all.length] ?? [18, 18];
  const wrong = await runRound({
    seed,
    versions,
    disturbances: Number(values.disturbances),
    log: (line) => process.stdout.write(`${line}\n`),
  });
  rounds += 1;
  if (wrong.length > 0) {
    process.stdout.write(`seed ${seed} FAILED\n${wrong.map((line) => `  ${line}\n`).join('')}`);
    process.stdout.write(
      `to try it again: npm run chaos -- --seed ${seed} --minutes 0 --disturbances ${values.disturbances}\n`,
    );
    process.exit(1);
  }
}
process.stdout.write(`${rounds} rounds passed\n`);
