import { Command } from '@commander-js/extra-typings';

import { formatLsn } from '#src/core/lsn.ts';
import { compileTablePattern } from '#src/core/selection-pattern.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { EXIT_CODES } from '#src/lib/errors.ts';
import { readVersions } from '#src/shadow/ddl/version-ledger.ts';

import { resolveOption } from './endpoints.ts';
import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';
import { versionLines } from './terminal/version.ts';

const EXAMPLE = `
Example:
  $ understudy schema history --target postgres://me@shadow/shop --table shop.orders`;

/** `schema history`: what became of the source's tables, version by version. */
export function schemaCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('schema')
    .description('What is known of how the tables of the source are defined.')
    .helpCommand(false)
    .addCommand(historyCommand(shell, finish));
}

function historyCommand(shell: Shell, finish: (exitCode: number) => void) {
  return new Command('history')
    .description('Show every version of every table: where it began, what changed, what followed.')
    .addOption(OPTIONS.target)
    .addOption(OPTIONS.table)
    .addOption(OPTIONS.config)
    .addOption(OPTIONS.json)
    .addOption(OPTIONS.logLevel)
    .addHelpText('after', EXAMPLE)
    .action(async (options) => {
      const runOptions = {
        ...options,
        title: 'understudy schema history',
        afterInterrupt: 'nothing was changed.',
        isAbandonedByInterrupt: true,
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const patterns = options.table.map(compileTablePattern);
        const endpoint = resolveOption(options.target, { shell, run, config: options.config });
        await using target = await openSession(endpoint, {
          applicationName: 'understudy schema history',
        });
        const all = await readVersions(target);
        // All versions of a table that had a matching name at any time: a rename is a rename.
        const matching = new Set(
          all
            .filter(({ table }) => patterns.length === 0 || patterns.some((fits) => fits(table)))
            .map(({ shadowId, sourceOid }) => `${shadowId} ${sourceOid}`),
        );
        const versions = all.filter(({ shadowId, sourceOid }) =>
          matching.has(`${shadowId} ${sourceOid}`),
        );
        for (const version of versions) {
          run.screen.print(
            { type: 'schemaVersion', ...version, lsn: formatLsn(version.lsn) },
            versionLines(version, run.screen.paint),
          );
        }
        run.screen.print(
          { type: 'schemaHistory', versions: versions.length },
          versions.length === 0 ? ['The target knows no version of such a table.'] : [],
        );
        return EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}
