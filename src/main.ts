import { failWith, runCommandLine } from '#src/cli/command-line.ts';
import { interruptSignal } from '#src/cli/interrupt.ts';
import type { Shell } from '#src/cli/shell.ts';
import { systemClock } from '#src/lib/clock.ts';

// The entry: hands argv and the process's own streams and signals to one command of src/cli.
const argv = process.argv.slice(2);
const shell: Shell = {
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  clock: systemClock,
  signal: interruptSignal(process),
};

// A bug in an event handler would otherwise print its stack, and with it what it was working on (I14).
process.on('uncaughtException', (error) => {
  process.exit(failWith(shell, argv, error));
});

const exitCode = await runCommandLine(shell, argv);
// Not process.exitCode: a socket that someone forgot must not keep a finished command alive. A pipe may
// still hold output of ours, so the end waits for it, or for its reader to leave.
process.stdout.write('', () => process.exit(exitCode));
