import { Command } from '@commander-js/extra-typings';

import { commandDeps } from './command-deps.ts';
import { runDemo } from './demo/show.ts';
import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy demo --once`;

/** `demo`: what `npm start` runs. */
export function demoCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('demo')
    .description(
      'Start two throw-away servers with a shop under load, shadow one with the other, and show it.',
    )
    .addOption(OPTIONS.once)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const exitCode = await runCommand(
        shell,
        {
          ...options,
          title: 'understudy demo',
          afterInterrupt: 'the servers are gone and nothing is left of them.',
          isEndedByInterrupt: true,
        },
        async (run) => runDemo(run, commandDeps(shell, run), { once: options.once === true }),
      );
      finish(exitCode);
    });
}
