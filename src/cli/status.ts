import { Command } from '@commander-js/extra-typings';

import { openSession } from '#src/db/postgres/connection/session.ts';
import { EXIT_CODES } from '#src/lib/errors.ts';
import { readStatus } from '#src/shadow/status.ts';

import { resolveOption } from './endpoints.ts';
import { OPTIONS } from './options.ts';
import { runCommand } from './run.ts';
import type { Shell } from './shell.ts';
import { statusLines } from './terminal/status.ts';

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
      const runOptions = {
        ...options,
        title: 'understudy status',
        afterInterrupt: 'nothing was changed.',
        isAbandonedByInterrupt: true,
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const endpoint = resolveOption(options.target, { shell, run, config: options.config });
        await using target = await openSession(endpoint, { applicationName: 'understudy status' });
        const shadows = await readStatus(target);
        for (const shadow of shadows) {
          run.screen.print(
            {
              ...shadow,
              type: 'shadow',
              holder: shadow.holder ?? null,
              slotName: shadow.slotName ?? null,
              spoolDirectory: shadow.spoolDirectory ?? null,
              stop: shadow.stop ?? null,
              largeObjects: shadow.largeObjects ?? null,
              lag: shadow.lag ?? null,
              maxLagMs: shadow.maxLagMs ?? null,
              sourceWalEtaMs: shadow.sourceWalEtaMs ?? null,
              verification: shadow.verification ?? null,
            },
            statusLines(shadow, run.screen.paint),
          );
        }
        run.screen.print(
          { type: 'listed', shadows: shadows.length },
          shadows.length === 0 ? ['The target holds no shadow.'] : [],
        );
        return shadows.some(({ isLate }) => isLate) ? EXIT_CODES.late : EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}
