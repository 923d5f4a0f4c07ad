import { readFileSync } from 'node:fs';

import { Command, CommanderError } from '@commander-js/extra-typings';

import { checkCommand } from './check.ts';
import { cloneCommand } from './clone.ts';
import { demoCommand } from './demo.ts';
import { dropCommand } from './drop.ts';
import { describeFailure, exitCodeOf, printFailure, stackOf } from './failure.ts';
import { reseedCommand, resumeCommand } from './resume-reseed.ts';
import { schemaCommand } from './schema-history.ts';
import type { Shell } from './shell.ts';
import { statusCommand } from './status.ts';
import { paintFor } from './terminal/paint.ts';
import { verifyCommand } from './verify.ts';

const EPILOGUE = `
Exit codes: 0 ok, 1 failed, 2 refused by the pre-flight check, 3 differences found, 4 late, 130 interrupted.
Passwords come from the URL, PGPASSWORD, ~/.pgpass, or a store's \`password: env:NAME\` (--config).

A first shadow:
  $ understudy check --source postgres://me@production/shop --target postgres://me@shadow/shop
  $ understudy clone --source postgres://me@production/shop --target postgres://me@shadow/shop --follow`;

/** Where no terminal says how wide it is. */
const HELP_COLUMNS = 80;

/** Run the command that `argv` (without node and script) asks for; its exit code. Never throws. */
export async function runCommandLine(shell: Shell, argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  try {
    const program = createProgram(shell, (code) => {
      exitCode = code;
    });
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (error) {
    // --help and --version arrive as errors with exit code 0.
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    // Without a command commander prints the help itself, to standard error.
    if (error instanceof CommanderError && error.code === 'commander.help') return error.exitCode;
    return failWith(shell, argv, error);
  }
}

/** Print a failure as the command line asks for; its exit code. */
export function failWith(shell: Shell, argv: readonly string[], error: unknown): number {
  const isJson = argv.includes('--json');
  const failure = describeFailure(error);
  const paint = paintFor(shell.stderr);
  const text = printFailure(failure, {
    isJson,
    time: new Date(shell.clock.now()).toISOString(),
    bold: (word) => paint('bold', paint('red', word)),
  });
  (isJson ? shell.stdout : shell.stderr).write(text);
  if (failure.code === 'INTERNAL' && isDebug(argv)) shell.stderr.write(`${stackOf(error)}\n`);
  return exitCodeOf(error);
}

function isDebug(argv: readonly string[]): boolean {
  return argv.includes('--log-level=debug') || argv[argv.indexOf('--log-level') + 1] === 'debug';
}

function createProgram(shell: Shell, finish: (exitCode: number) => void): Command {
  const program = new Command('understudy')
    .description('A live, verified shadow of a Postgres database.')
    .version(packageVersion(), '--version', 'print the version')
    .helpOption('--help', 'print this, or the options of a command')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => shell.stdout.write(text),
      writeErr: (text) => shell.stderr.write(text),
      getOutHelpWidth: () => shell.stdout.columns ?? HELP_COLUMNS,
      getErrHelpWidth: () => shell.stderr.columns ?? HELP_COLUMNS,
      // Printed once, by failWith, with our code and hint.
      outputError: () => undefined,
    })
    .addHelpText('after', EPILOGUE);
  for (const create of [
    checkCommand,
    cloneCommand,
    verifyCommand,
    statusCommand,
    resumeCommand,
    reseedCommand,
    schemaCommand,
    dropCommand,
    demoCommand,
  ]) {
    program.addCommand(create(shell, finish).copyInheritedSettings(program));
  }
  return program;
}

/** From package.json, two folders up in a clone (src/cli) and in the installed package (dist/cli) alike. */
function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  const parsed: unknown = JSON.parse(readFileSync(file, 'utf8'));
  return typeof parsed === 'object' && parsed !== null && 'version' in parsed
    ? String(parsed.version)
    : 'unknown';
}
