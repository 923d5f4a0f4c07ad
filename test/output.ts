import { appendFileSync } from 'node:fs';
import { join } from 'node:path';

import { pino } from 'pino';

import { OperatorError } from '#src/lib/errors.ts';
import { createLogger, type Logger } from '#src/lib/log.ts';

/*
 * Whatever the product says while it is tested (output, events, logs, errors) is kept in a folder of the
 * run, where test/output-scan.ts looks for row values and secrets at the end (I14).
 */

/** Names the folder; set by test/output-setup.ts for every process of the run. */
export const OUTPUT_VARIABLE = 'UNDERSTUDY_TEST_OUTPUT';

/** What a test process has to say of one kind, such as `stdout`. One line or many at a time. */
export function recordOutput(kind: string, text: string): void {
  const path = fileOf(kind);
  if (path !== undefined && text !== '') appendFileSync(path, text);
}

/** An object as one line. */
export function recordLine(kind: string, line: unknown): void {
  recordOutput(kind, `${JSON.stringify(line, plain)}\n`);
}

function plain(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

/** What an operator would be shown of an error. */
export function recordError(error: unknown): void {
  if (!(error instanceof OperatorError)) return;
  const { code, message, hint, detail } = error;
  recordLine('errors', { code, message, hint, detail });
}

/** Logs everything, to the folder only. */
export function recordingLogger(): Logger {
  const path = fileOf('log');
  if (path === undefined) return createLogger('silent');
  return pino({ level: 'debug', base: null }, pino.destination({ dest: path, sync: true }));
}

function fileOf(kind: string): string | undefined {
  const folder = process.env[OUTPUT_VARIABLE];
  return folder === undefined ? undefined : join(folder, `${process.pid}.${kind}`);
}
