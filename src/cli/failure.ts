import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { CommanderError } from '@commander-js/extra-typings';

import { EXIT_CODES, OperatorError } from '#src/lib/errors.ts';

import { redact } from './redact.ts';

/** A failure as it is printed: plain text for people, one line with --json. Holds no secret. */
export type Failure = {
  readonly type: 'error';
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly detail: Readonly<Record<string, string | number>>;
};

/** Whatever was thrown, as something to print; an unexpected exception leaves its stack in a file. */
export function describeFailure(error: unknown): Failure {
  if (error instanceof OperatorError) {
    return {
      type: 'error',
      code: error.code,
      message: redact(error.message),
      hint: error.hint,
      detail: error.detail,
    };
  }
  if (error instanceof CommanderError) {
    return describeFailure(new OperatorError('CONFIG_INVALID', usageMessage(error)));
  }
  // The message of a foreign exception may quote a row or a secret (I14), so it goes to the file only.
  const name = error instanceof Error ? error.name : typeof error;
  const file = writeCrashFile(error);
  return {
    type: 'error',
    code: 'INTERNAL',
    message: `internal error (${name})`,
    hint:
      file === undefined
        ? 'This is a bug; run again with --log-level debug to see the stack.'
        : `This is a bug; please report it with ${file}.`,
    detail: file === undefined ? {} : { file },
  };
}

export function printFailure(
  failure: Failure,
  style: {
    readonly isJson: boolean;
    readonly time: string;
    readonly bold: (text: string) => string;
  },
): string {
  if (style.isJson) return `${JSON.stringify({ ...failure, time: style.time })}\n`;
  return `${style.bold(`error ${failure.code}:`)} ${failure.message}\nhint: ${failure.hint}\n`;
}

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof OperatorError)) return EXIT_CODES.failed;
  return error.code === 'PREFLIGHT_REFUSED' ? EXIT_CODES.refused : EXIT_CODES.failed;
}

/** Commander writes `error: unknown option '--x'`, a suggestion on a second line. */
function usageMessage(error: CommanderError): string {
  return error.message.replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' ');
}

function writeCrashFile(error: unknown): string | undefined {
  const file = join(tmpdir(), `understudy-crash-${randomUUID()}.txt`);
  try {
    writeFileSync(file, `${redact(stackOf(error))}\n`, { mode: 0o600, flag: 'wx' });
    return file;
  } catch {
    return undefined;
  }
}

/** The stack with those of its causes. */
export function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by: ${stackOf(error.cause)}`;
}
