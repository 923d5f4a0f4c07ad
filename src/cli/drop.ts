import { Command } from '@commander-js/extra-typings';

import { OperatorError } from '#src/lib/errors.ts';

import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy drop --source postgres://me@production/shop --target postgres://me@shadow/shop`;

/** `drop`: remove slot, publication, origin and ledger, by recorded name. */
export function dropCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('drop')
    .description('Remove what Understudy made on both sides. The copied tables and rows stay.')
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const exitCode = await runCommand(
        shell,
        {
          ...options,
          title: 'understudy drop',
          afterInterrupt: 'run it again to remove what is left.',
        },
        async () => {
          throw new OperatorError('CONFIG_INVALID', 'drop is not part of this version yet');
        },
      );
      finish(exitCode);
    });
}
