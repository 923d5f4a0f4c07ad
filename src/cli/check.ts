import { Command } from '@commander-js/extra-typings';

import { OperatorError } from '#src/lib/errors.ts';

import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy check --source postgres://me@production/shop --target postgres://me@shadow/shop --schema shop`;

/** `check`: what would keep a shadow from being made or followed, with the fix of each. Changes nothing. */
export function checkCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('check')
    .description(
      'Find what would keep a shadow from working, and say how to fix it. Changes nothing.',
    )
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.schema)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.exclude)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const exitCode = await runCommand(
        shell,
        { ...options, title: 'understudy check', afterInterrupt: 'nothing was changed.' },
        async () => {
          throw new OperatorError('CONFIG_INVALID', 'check is not part of this version yet');
        },
      );
      finish(exitCode);
    });
}
