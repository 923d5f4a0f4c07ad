import { Command } from '@commander-js/extra-typings';

import { EXIT_CODES } from '#src/lib/errors.ts';

import { commandDeps } from './command-deps.ts';
import { resolveOption } from './endpoints.ts';
import { OPTIONS } from './options.ts';
import { returnDatabases, type ReturnKind } from './return-databases.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';

/** `resume`: stopped tables go on where they stopped. */
export function resumeCommand(shell: Shell, finish: (exitCode: number) => void) {
  return returnCommand({ shell, finish }, 'resume', {
    description:
      'Let stopped tables go on from where they stopped, once the target was adapted to their new shape.',
    afterInterrupt: 'the tables go on by themselves while the shadow is followed.',
  });
}

/** `reseed`: stopped tables are copied again. */
export function reseedCommand(shell: Shell, finish: (exitCode: number) => void) {
  return returnCommand({ shell, finish }, 'reseed', {
    description: 'Copy stopped tables again while the others follow.',
    afterInterrupt: 'the copy goes on by itself while the shadow is followed.',
  });
}

function returnCommand(
  { shell, finish }: { readonly shell: Shell; readonly finish: (exitCode: number) => void },
  kind: ReturnKind,
  texts: { readonly description: string; readonly afterInterrupt: string },
) {
  return new Command(kind)
    .description(texts.description)
    .addOption(OPTIONS.source)
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.jobs)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText(
      'after',
      `
Example:
  $ understudy ${kind} --source postgres://me@production/shop --target postgres://me@shadow/shop --table shop.orders`,
    )
    .action(async (options) => {
      const { afterInterrupt } = texts;
      const runOptions = { ...options, title: `understudy ${kind}`, afterInterrupt };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const stores = { shell, run, config: options.config };
        const tables = await returnDatabases(commandDeps(shell, run), kind, {
          source: resolveOption(options.source, stores),
          target: resolveOption(options.target, stores),
          tables: options.table,
          jobs: options.jobs,
        });
        run.screen.end();
        for (const table of tables) {
          run.screen.print({ type: 'returned', by: kind, table }, [
            `table ${table.schema}.${table.name} follows again; the next verification reads it whole.`,
          ]);
        }
        return EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}
