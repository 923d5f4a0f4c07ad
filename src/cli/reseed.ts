import { Command } from '@commander-js/extra-typings';

import { EXIT_CODES } from '#src/lib/errors.ts';

import { commandDeps } from './command-deps.ts';
import { resolveOption } from './endpoints.ts';
import { OPTIONS } from './options.ts';
import { returnDatabases } from './return-command.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

const EXAMPLE = `
Example:
  $ understudy reseed --source postgres://me@production/shop --target postgres://me@shadow/shop --table shop.orders`;

/** `reseed`: stopped tables are copied again. */
export function reseedCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('reseed')
    .description('Copy stopped tables again while the others follow.')
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.jobs)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const runOptions = {
        ...options,
        title: 'understudy reseed',
        afterInterrupt: 'the copy goes on by itself while the shadow is followed.',
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const stores = { shell, run, config: options.config };
        const tables = await returnDatabases(commandDeps(shell, run), 'reseed', {
          source: resolveOption(options.source, stores),
          target: resolveOption(options.target, stores),
          tables: options.table,
          jobs: options.jobs,
        });
        run.screen.end();
        for (const table of tables) {
          run.screen.print({ type: 'returned', by: 'reseed', table }, [
            `table ${table.schema}.${table.name} follows again; the next verification reads it whole.`,
          ]);
        }
        return EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}
