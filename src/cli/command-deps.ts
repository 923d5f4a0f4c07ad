import type { Report } from '#src/core/progress.ts';
import type { Clock } from '#src/lib/clock.ts';
import { createFailpoints, type Failpoints } from '#src/lib/failpoint.ts';
import type { Logger } from '#src/lib/log.ts';

import type { Run } from './run.ts';
import type { Shell } from './shell.ts';

/** What every engine takes from its command. */
export type CommandDeps = {
  readonly report: Report;
  readonly log: Logger;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly failpoints: Failpoints;
};

export function commandDeps(shell: Shell, run: Run): CommandDeps {
  return {
    report: run.screen.report,
    log: run.log,
    clock: shell.clock,
    signal: run.signal,
    // Only tests set it, to make the process die at a named place.
    failpoints: createFailpoints(shell.env['UNDERSTUDY_FAILPOINTS']),
  };
}
