import { Command } from '@commander-js/extra-typings';

import type { Lsn } from '#src/core/lsn.ts';
import { EXIT_CODES, OperatorError } from '#src/lib/errors.ts';

import { cloneShadow } from './clone-shadow.ts';
import { commandDeps } from './command-deps.ts';
import { resolveOption } from './endpoints.ts';
import { OPTIONS, selectionOf } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';
import { printDifferences } from './terminal/differences.ts';
import { printFindings, printWarnings } from './terminal/findings.ts';
import { verifyDatabases } from './verify-shadow.ts';

const EXAMPLE = `
Example:
  $ understudy clone --source postgres://me@production/shop --target postgres://me@shadow/shop --follow --verify`;

/** What would otherwise be ignored without a word. */
function refuseContradictions(options: {
  readonly follow?: true;
  readonly verify?: true;
  readonly untilLsn?: Lsn;
  readonly ddlTriggers?: true;
}): void {
  if (options.ddlTriggers === true && options.follow !== true) {
    throw new OperatorError('CONFIG_INVALID', '--ddl-triggers needs --follow');
  }
  if (options.untilLsn === undefined) return;
  if (options.follow !== true) {
    throw new OperatorError('CONFIG_INVALID', '--until-lsn needs --follow');
  }
  if (options.verify === true) {
    throw new OperatorError(
      'CONFIG_INVALID',
      '--verify and --until-lsn exclude each other: a follower that has ended keeps no fence',
    );
  }
}

/** `clone`: copy, and with --follow keep in step. Run again after any end, it resumes. */
export function cloneCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('clone')
    .description(
      'Make a shadow: schema, data, indexes, sequences; with --follow, every change from then on.',
    )
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.schema)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.exclude)
    .addOption(OPTIONS.where)
    .addOption(OPTIONS.excludeColumn)
    .addOption(OPTIONS.owners)
    .addOption(OPTIONS.jobs)
    .addOption(OPTIONS.follow)
    .addOption(OPTIONS.ddlTriggers)
    .addOption(OPTIONS.verify)
    .addOption(OPTIONS.spool)
    .addOption(OPTIONS.maxSourceWal)
    .addOption(OPTIONS.stoppedSpoolMax)
    .addOption(OPTIONS.maxLag)
    .addOption(OPTIONS.untilLsn)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      refuseContradictions(options);
      const exitCode = await runCommand(
        shell,
        {
          ...options,
          title: 'understudy clone',
          afterInterrupt: 'run the same command again, it resumes where it was.',
        },
        async (run) => {
          const stores = { shell, run, config: options.config };
          const deps = commandDeps(shell, run);
          const settings = {
            source: resolveOption(options.source, stores),
            target: resolveOption(options.target, stores),
            selection: selectionOf(options),
            jobs: options.jobs,
          };
          let differences = 0;
          const cloning = cloneShadow(deps, {
            ...settings,
            isFollowed: options.follow === true,
            spoolDirectory: options.spool,
            sourceWalBytesMax: options.maxSourceWal,
            stoppedSpoolBytesMax: options.stoppedSpoolMax,
            maxLagMs: options.maxLag,
            owners: options.owners,
            ddlTriggers: options.ddlTriggers === true,
            untilLsn: options.untilLsn,
            onChecked: (result) => {
              (result.isRefused ? printFindings : printWarnings)(run.screen, result);
            },
            onInStep: async ({ sourceSnapshot }) => {
              if (options.verify !== true) return;
              const verdict = await verifyDatabases(deps, {
                ...settings,
                isFull: true,
                sourceSnapshot,
              });
              printDifferences(run.screen, verdict);
              differences += verdict.differences;
            },
          });
          try {
            await cloning;
          } catch (error) {
            // Whoever stops a shadow that was found to differ should hear that, not that it was stopped.
            if (differences === 0 || !run.signal.aborted) throw error;
          }
          return differences === 0 ? EXIT_CODES.ok : EXIT_CODES.different;
        },
      );
      finish(exitCode);
    });
}
