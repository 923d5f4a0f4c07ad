import { Command } from '@commander-js/extra-typings';

import { OperatorError } from '#src/lib/errors.ts';

import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy status --target postgres://me@shadow/shop`;

/** `status`: what the target knows about its shadows. */
export function statusCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('status')
    .description(
      'Show every shadow that a target holds: phase, progress, lag, WAL kept on the source.',
    )
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const exitCode = await runCommand(
        shell,
        { ...options, title: 'understudy status', afterInterrupt: 'nothing was changed.' },
        async () => {
          throw new OperatorError('CONFIG_INVALID', 'status is not part of this version yet');
        },
      );
      finish(exitCode);
    });
}
