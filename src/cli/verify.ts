import { Command } from '@commander-js/extra-typings';

import { EXIT_CODES } from '#src/lib/errors.ts';

import { commandDeps } from './command-deps.ts';
import { resolveOption } from './endpoints.ts';
import { OPTIONS, selectionOf } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';
import { printDifferences } from './terminal/differences.ts';
import { formatPlural } from './terminal/format.ts';
import { repairDatabases, verifyDatabases, whileFollowed } from './verify-shadow.ts';

const EXAMPLE = `
Example:
  $ understudy verify --source postgres://me@production/shop --target postgres://me@shadow/shop --repair`;

function exitCodeOf(verdict: { readonly differences: number }): number {
  return verdict.differences === 0 ? EXIT_CODES.ok : EXIT_CODES.different;
}

/** `verify`: compare at a fence, report differences, mend them when asked. */
export function verifyCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('verify')
    .description(
      'Compare both sides exactly while both are in use, and name every row that differs.',
    )
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.schema)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.exclude)
    .addOption(OPTIONS.repair)
    .addOption(OPTIONS.full)
    .addOption(OPTIONS.jobs)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const runOptions = {
        ...options,
        title: 'understudy verify',
        afterInterrupt: 'run it again to verify what is left.',
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const stores = { shell, run, config: options.config };
        const deps = commandDeps(shell, run);
        const settings = {
          source: resolveOption(options.source, stores),
          target: resolveOption(options.target, stores),
          selection: selectionOf(options),
          jobs: options.jobs,
          isFull: options.full === true,
        };
        if (options.repair !== true) {
          const verdict = await whileFollowed(deps, settings, async (followed) =>
            verifyDatabases(followed, settings),
          );
          run.screen.end();
          printDifferences(run.screen, verdict);
          return exitCodeOf(verdict);
        }
        // What differed is shown; what is left after the repair decides.
        const { found, rows, after } = await whileFollowed(deps, settings, async (followed) =>
          repairDatabases(followed, settings),
        );
        run.screen.end();
        printDifferences(run.screen, found);
        const left = after.differences;
        run.screen.print({ type: 'repaired', rows, differences: left }, [
          `${formatPlural(rows, 'row')} repaired; ${formatPlural(left, 'difference')} left.`,
        ]);
        if (after !== found) printDifferences(run.screen, after);
        return exitCodeOf(after);
      });
      finish(exitCode);
    });
}
