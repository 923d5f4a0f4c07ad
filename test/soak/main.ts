import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { createGuardedFolder } from '#src/provision/guarded-folder.ts';
import { startCrashServer } from '#test/chaos/crash-server.ts';
import { bulkRows, CHAOS_SCHEMA } from '#test/chaos/schema.ts';
import {
  createShadow,
  describeEnd,
  FOLLOWING,
  settle,
  type Shadow,
  verify,
} from '#test/chaos/shadow.ts';
import { startWorkload } from '#test/chaos/workload.ts';
import { TEST_VERSIONS, type TestVersion } from '#test/servers.ts';

import { FIGURES, type Sample, takeSample } from './sample.ts';
import { trendOf } from './trend.ts';

// `npm run soak -- --hours H | --minutes M [--from 16] [--to 17]`: a shadow that is followed under a steady
// load, verified now and then, and whether anything of it grows. The exit code is 1 if something does.

const { values } = parseArgs({
  options: {
    hours: { type: 'string' },
    minutes: { type: 'string' },
    from: { type: 'string', default: '16' },
    to: { type: 'string', default: '17' },
  },
});

const HOUR_MS = 3_600_000;
const SAMPLES = 200;
const SAMPLE_MS_MIN = 2_000;
const VERIFICATIONS = 10;
const VERIFY_TRIES = 3;

const durationMs =
  values.minutes === undefined
    ? Number(values.hours ?? '1') * HOUR_MS
    : Number(values.minutes) * 60_000;
const everyMs = Math.max(SAMPLE_MS_MIN, durationMs / SAMPLES);

process.exitCode = await soak();

async function soak(): Promise<number> {
  await using source = await startCrashServer(
    versionOf(values.from),
    'production',
    CHAOS_SCHEMA + bulkRows(50_000),
  );
  await using target = await startCrashServer(versionOf(values.to), 'shadow');
  await using shadow = await createShadow(source.endpoint, target.endpoint);
  await using workload = await startWorkload(source.endpoint, 1);
  await using heaps = await createGuardedFolder('understudy-heaps-');
  await using clone = shadow.start({
    env: {
      NODE_OPTIONS: `--import=${join(import.meta.dirname, 'live-heap.ts')}`,
      UNDERSTUDY_SOAK_HEAPS: heaps.path,
    },
  });
  await clone.waitFor(FOLLOWING);
  const wrong: string[] = [];
  const samples: { readonly atMs: number; readonly sample: Sample }[] = [];
  const startedMs = performance.now();
  let verifications = 0;
  while (performance.now() - startedMs < durationMs && wrong.length === 0) {
    const atMs = performance.now() - startedMs;
    const sample = await takeSample(shadow, { processId: clone.processId, heaps: heaps.path });
    samples.push({ atMs, sample });
    print(`${(atMs / 60_000).toFixed(1).padStart(7)} min  ${describeSample(sample)}`);
    if (clone.hasEnded()) wrong.push(`the clone ended: ${describeEnd(await clone.ended)}`);
    else if (atMs > (durationMs * (verifications + 1)) / (VERIFICATIONS + 1)) {
      verifications += 1;
      wrong.push(...(await verifyUndisturbed(shadow)));
    }
    await wait(everyMs);
  }
  await workload.stop();
  wrong.push(...workload.failed);
  if (wrong.length === 0) wrong.push(...(await settle(shadow, clone)), ...(await verify(shadow)));
  return report(samples, wrong);
}

/** A TRUNCATE while a table is read leaves it unverified, which is said; most runs meet none. */
async function verifyUndisturbed(shadow: Shadow): Promise<readonly string[]> {
  for (let tries = 1; ; tries++) {
    const wrong = await verify(shadow);
    const isDisturbed = wrong.length > 0 && wrong.every((line) => line.includes('meanwhile'));
    if (!isDisturbed || tries === VERIFY_TRIES) return wrong;
  }
}

/** The verdict on every figure; the exit code. */
function report(
  samples: readonly { readonly atMs: number; readonly sample: Sample }[],
  wrong: readonly string[],
): number {
  const [first, last] = [samples[0]?.sample, samples.at(-1)?.sample];
  const transactions = (last?.transactions ?? 0) - (first?.transactions ?? 0);
  print(`${samples.length} samples, ${transactions} transactions applied`);
  let isGrowing = false;
  for (const { name, unit, floor } of FIGURES) {
    const series = samples.map(({ atMs, sample }) => ({ atMs, value: sample[name] }));
    const { verdict, rise, mean, fit } = trendOf(series, floor);
    isGrowing ||= verdict === 'growing';
    print(
      `${name.padEnd(12)} ${verdict.padEnd(9)} mean ${mean.toFixed(1)} ${unit}, rise ${rise.toFixed(1)} ${unit}, fit ${fit.toFixed(2)}`,
    );
  }
  wrong.forEach((line) => print(`WRONG: ${line}`));
  const isGood = !isGrowing && wrong.length === 0;
  print(isGood ? 'flat' : isGrowing ? 'growing' : 'failed');
  return isGood ? 0 : 1;
}

function describeSample(sample: Sample): string {
  return Object.entries(sample)
    .map(([figure, value]) => `${figure} ${Math.round(value * 10) / 10}`)
    .join('  ');
}

function versionOf(text: string): TestVersion {
  const version = TEST_VERSIONS.find((one) => String(one) === text);
  if (version === undefined) throw new Error(`${text} is not one of ${TEST_VERSIONS.join(', ')}`);
  return version;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
