import { cloneShadow } from '#src/cli/clone-shadow.ts';
import type { CommandDeps } from '#src/cli/command-deps.ts';
import { SOURCE_WAL_BYTES_MAX, STOPPED_SPOOL_BYTES_MAX } from '#src/cli/options.ts';
import type { Run } from '#src/cli/run.ts';
import { printDifferences } from '#src/cli/terminal/differences.ts';
import { verifyDatabases } from '#src/cli/verify-shadow.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import type { Clock } from '#src/lib/clock.ts';
import { EXIT_CODES } from '#src/lib/errors.ts';

import { finalLines, openingLines } from './screen.ts';
import { type ShopLoad, startShopLoad } from './shop-load.ts';
import { buildShop, setStage, type Stage } from './stage.ts';

/** Between two verifications of a demo that goes on. */
const REVERIFY_MS = 15_000;
const LOAD_REPORT_MS = 500;
const JOBS = 2;

/** What the verifications under load have found. */
type Tally = { verifications: number; differences: number };

/**
 * Shadow a shop under load, for real: the servers, the clone and the verification are those of the
 * commands. The exit code is 0 only if a verification under load was clean and no transaction failed.
 */
export async function runDemo(
  run: Run,
  deps: CommandDeps,
  options: { readonly once: boolean },
): Promise<number> {
  const { screen } = run;
  const { clock } = deps;
  const startedMs = clock.now();
  screen.print({ type: 'demoStarted' }, ['Starting two Postgres servers …']);
  await using stage = await setStage(run.signal);
  for (const role of ['production', 'shadow'] as const) {
    const { version, url } = stage[role];
    screen.print({ type: 'serverStarted', role, version, url }, [
      `  ${role} is Postgres ${version}`,
    ]);
  }
  const builtMs = clock.now();
  const shop = await buildShop(stage.production.endpoint, run.signal);
  const elapsedMs = clock.now() - builtMs;
  screen.print({ type: 'shopLoaded', ...shop, elapsedMs }, openingLines(stage, shop));

  const tally: Tally = { verifications: 0, differences: 0 };
  await using load = await startShopLoad(stage.production.endpoint, { clock });
  await shadowUnderLoad({ run, deps, stage, load, tally, once: options.once });
  await load[Symbol.asyncDispose]();

  const isClean = tally.verifications > 0 && tally.differences === 0 && load.count.failed === 0;
  const summary = {
    isClean,
    ...tally,
    transactions: load.count.transactions,
    failed: load.count.failed,
    elapsedMs: clock.now() - startedMs,
  };
  screen.end();
  screen.print(
    { type: 'demoFinished', ...summary },
    finalLines({ ...summary, firstFailure: load.count.firstFailure, paint: screen.paint }),
  );
  if (tally.differences > 0) return EXIT_CODES.different;
  if (isClean) return EXIT_CODES.ok;
  return run.signal.aborted && load.count.failed === 0 ? EXIT_CODES.interrupted : EXIT_CODES.failed;
}

/** Clone and follow in the background; verify, again and again, until interrupted or with `once` once. */
async function shadowUnderLoad(act: {
  run: Run;
  deps: CommandDeps;
  stage: Stage;
  load: ShopLoad;
  tally: Tally;
  once: boolean;
}): Promise<void> {
  const { run, stage, load, tally, once } = act;
  const { clock } = act.deps;
  const over = new AbortController();
  const signal = AbortSignal.any([run.signal, over.signal]);
  const deps = { ...act.deps, signal };
  const inStep = Promise.withResolvers<void>();
  const common = {
    source: stage.production.endpoint,
    target: stage.shadow.endpoint,
    selection: EVERYTHING,
    jobs: JOBS,
  };
  const clone = cloneShadow(deps, {
    ...common,
    isFollowed: true,
    spoolDirectory: stage.spoolDirectory,
    sourceWalBytesMax: SOURCE_WAL_BYTES_MAX,
    stoppedSpoolBytesMax: STOPPED_SPOOL_BYTES_MAX,
    untilLsn: undefined,
    onInStep: async () => inStep.resolve(),
  });
  const verifyOnAndOn = async (): Promise<void> => {
    await inStep.promise;
    for (;;) {
      const verdict = await verifyDatabases(deps, { ...common, isFull: false });
      printDifferences(run.screen, verdict);
      tally.differences += verdict.differences;
      tally.verifications += 1;
      if (once || tally.differences > 0) return;
      await clock.sleep(REVERIFY_MS, signal);
    }
  };
  const ticker = reportLoad({ run, clock, load, signal });
  try {
    // A clone that ends by itself has failed or was stopped: nothing is left to verify.
    await Promise.race([verifyOnAndOn(), clone]);
  } catch (error) {
    if (!run.signal.aborted) throw error;
  } finally {
    over.abort();
    await Promise.allSettled([clone, ticker]);
  }
}

async function reportLoad(act: {
  run: Run;
  clock: Clock;
  load: ShopLoad;
  signal: AbortSignal;
}): Promise<void> {
  while (!act.signal.aborted) {
    const { transactions, rolledBack, failed } = act.load.count;
    act.run.screen.report({ type: 'loadProgress', transactions, rolledBack, failed });
    await act.clock.sleep(LOAD_REPORT_MS, act.signal).catch(() => undefined);
  }
}
