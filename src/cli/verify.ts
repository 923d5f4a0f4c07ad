import { Command } from '@commander-js/extra-typings';

import { OperatorError } from '#src/lib/errors.ts';

import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy verify --source postgres://me@production/shop --target postgres://me@shadow/shop --repair`;

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
      const exitCode = await runCommand(
        shell,
        {
          ...options,
          title: 'understudy verify',
          afterInterrupt: 'run it again to verify what is left.',
        },
        async () => {
          throw new OperatorError('CONFIG_INVALID', 'verify is not part of this version yet');
        },
      );
      finish(exitCode);
    });
}
