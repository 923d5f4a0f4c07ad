import { Command } from '@commander-js/extra-typings';

import { OperatorError } from '#src/lib/errors.ts';

import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy clone --source postgres://me@production/shop --target postgres://me@shadow/shop --follow --verify`;

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
    .addOption(OPTIONS.jobs)
    .addOption(OPTIONS.follow)
    .addOption(OPTIONS.verify)
    .addOption(OPTIONS.spool)
    .addOption(OPTIONS.maxSourceWal)
    .addOption(OPTIONS.untilLsn)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const exitCode = await runCommand(
        shell,
        {
          ...options,
          title: 'understudy clone',
          afterInterrupt: 'run the same command again, it resumes where it was.',
        },
        async () => {
          throw new OperatorError('CONFIG_INVALID', 'clone is not part of this version yet');
        },
      );
      finish(exitCode);
    });
}
