import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';

import { runCommandLine } from '#src/cli/command-line.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import { systemClock } from '#src/lib/clock.ts';

import { recordOutput } from './output.ts';

const MAIN = join(import.meta.dirname, '../src/main.ts');
/** A start costs half as much when what earlier ones have compiled is kept, and tests start hundreds. */
const COMPILED = join(import.meta.dirname, '../node_modules/.cache/compiled');
const UNLIMITED = ':';

export type Ended = {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
};

export type RunningCommand = AsyncDisposable & {
  readonly processId: number;
  readonly kill: (signal: NodeJS.Signals) => void;
  /** As `| head` does when it has seen enough. */
  readonly closeOutput: () => void;
  /** Waits for a text on standard output; throws when the command ends without it. */
  readonly waitFor: (text: string | RegExp) => Promise<string>;
  readonly ended: Promise<Ended>;
};

/**
 * Run the command as a user does, with nothing of the caller's environment that could change its mind.
 * `limit` is a line of shell that comes first, such as `ulimit -f 100`.
 */
export function startCommand(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  limit = UNLIMITED,
): RunningCommand {
  const shell = ['-c', `${limit}; exec "$@"`, 'sh', process.execPath, MAIN, ...args];
  const child = spawn('/bin/sh', shell, {
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      ...(limit === UNLIMITED && { NODE_COMPILE_CACHE: COMPILED }),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  const watchers = new Set<() => void>();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    // A file a process: half a line of one must not be followed by another's.
    recordOutput(`${child.pid}.stdout`, text);
    for (const look of watchers) look();
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    recordOutput(`${child.pid}.stderr`, text);
  });
  const ended = once(child, 'close').then(([code]): Ended => ({ code, stdout, stderr }));
  return {
    processId: child.pid ?? 0,
    kill: (signal) => void child.kill(signal),
    closeOutput: () => void child.stdout.destroy(),
    waitFor: async (text) => {
      const found = Promise.withResolvers<string>();
      const look = (): void => {
        const line = stdout.split('\n').slice(0, -1);
        const match = line.find((one) =>
          typeof text === 'string' ? one.includes(text) : text.test(one),
        );
        if (match !== undefined) found.resolve(match);
      };
      watchers.add(look);
      look();
      void ended.then(() => found.reject(new Error(`ended without ${text}:\n${stdout}${stderr}`)));
      return found.promise.finally(() => watchers.delete(look));
    },
    ended,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

export async function runCommand(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  return startCommand(args, env).ended;
}

/** The same without a process of its own: quick, for what is decided before anything is started. */
export async function runInProcess(args: readonly string[]): Promise<Ended> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const code = await runCommandLine(
    { env: {}, stdout, stderr, clock: systemClock, signal: new AbortController().signal },
    args,
  );
  const ended = {
    code,
    stdout: String(stdout.read() ?? ''),
    stderr: String(stderr.read() ?? ''),
  };
  recordOutput('stdout', ended.stdout);
  recordOutput('stderr', ended.stderr);
  return ended;
}

/** Every line of a --json output. */
export function parseLines(stdout: string): Record<string, unknown>[] {
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

export function urlOf(endpoint: Endpoint): string {
  const { user, password, host, port, database } = endpoint;
  return `postgres://${user}:${encodeURIComponent(password ?? '')}@${host}:${port}/${database}`;
}
