import { Command } from '@commander-js/extra-typings';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { EXIT_CODES } from '#src/lib/errors.ts';
import { runCheck } from '#src/shadow/check/run-check.ts';

import { resolveOption } from './endpoints.ts';
import { OPTIONS, selectionOf, SOURCE_WAL_BYTES_MAX } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';
import { printFindings } from './terminal/findings.ts';

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
    .addOption(OPTIONS.where)
    .addOption(OPTIONS.excludeColumn)
    .addOption(OPTIONS.owners)
    .addOption(OPTIONS.ddlTriggers)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const runOptions = {
        ...options,
        title: 'understudy check',
        afterInterrupt: 'nothing was changed.',
        isAbandonedByInterrupt: true,
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const deps = { shell, run, config: options.config };
        const applicationName = 'understudy check';
        await using source = await openSession(resolveOption(options.source, deps), {
          applicationName,
        });
        await using target = await openSession(resolveOption(options.target, deps), {
          applicationName,
        });
        const result = await runCheck({
          source,
          target,
          selection: selectionOf(options),
          isFollowed: true,
          owners: options.owners,
          sourceWalBytesMax: SOURCE_WAL_BYTES_MAX,
          ddlTriggers: options.ddlTriggers,
        });
        printFindings(run.screen, result);
        return result.isRefused ? EXIT_CODES.refused : EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}
