import { Command } from '@commander-js/extra-typings';

import { EXIT_CODES } from '#src/lib/errors.ts';
import { type Dropped, dropShadows } from '#src/shadow/drop.ts';

import { commandDeps } from './command-deps.ts';
import { resolveOption } from './endpoints.ts';
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
      const runOptions = {
        ...options,
        title: 'understudy drop',
        afterInterrupt: 'run it again to remove what is left.',
      };
      const exitCode = await runCommand(shell, runOptions, async (run) => {
        const stores = { shell, run, config: options.config };
        const dropped = await dropShadows({
          ...commandDeps(shell, run),
          source: resolveOption(options.source, stores),
          target: resolveOption(options.target, stores),
        });
        for (const shadow of dropped) {
          run.screen.print({ type: 'dropped', ...shadow }, describeDropped(shadow));
        }
        return EXIT_CODES.ok;
      });
      finish(exitCode);
    });
}

function describeDropped({ shadowId, removed, isOfCopy, left }: Dropped): readonly string[] {
  const lines = [
    `shadow ${shadowId} is dropped${isOfCopy ? ' here only' : ''}; removed:`,
    ...removed.map((what) => `  ${what}`),
    'Copied tables and rows stay.',
  ];
  if (!isOfCopy) return lines;
  lines.push(
    'This target was restored or copied from another one, which may go on following. So this stays:',
    ...left.map(({ what, side }) => `  ${what} (${side})`),
  );
  const statements = left.filter(({ sql }) => sql !== null);
  if (statements.length === 0) return lines;
  return [
    ...lines,
    'Only if the other target is gone for good, remove it, or the source keeps WAL for it:',
    ...statements.map(({ sql, side }) => `  on the ${side}: ${sql};`),
  ];
}
