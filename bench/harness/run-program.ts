import { spawn } from 'node:child_process';
import { once } from 'node:events';

export type ProgramRun = {
  readonly seconds: number;
  /** Of the program and of everything that it started and waited for. */
  readonly cpuSeconds: number;
  readonly stdout: string;
};

/**
 * The shell's `times` is the one portable way to learn what a program and its descendants used; its
 * second line is about those. https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html
 */
const TIMED = '"$@" 3>&-; code=$?; times >&3; exit $code';
const PRINTED_CHARS_MAX = 4_000;

/** Run a program to its end, from its start to its exit. Throws with what it printed when it fails. */
export async function runProgram(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<ProgramRun> {
  const startedAt = performance.now();
  const child = spawn('/bin/sh', ['-c', TIMED, 'sh', program, ...args], {
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const printed = ['', '', '', ''];
  for (const index of [1, 2, 3]) {
    const stream = child.stdio[index];
    if (stream && 'setEncoding' in stream) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        printed[index] = `${printed[index]}${text}`;
      });
    }
  }
  const [code] = await once(child, 'close');
  const seconds = (performance.now() - startedAt) / 1000;
  const [, stdout = '', stderr = '', times = ''] = printed;
  if (code !== 0) {
    const said = `${stdout}${stderr}`.slice(-PRINTED_CHARS_MAX);
    throw new Error(`${program} ended with ${code}:\n${said}`);
  }
  return { seconds, cpuSeconds: parseTimes(times), stdout };
}

/** Whether a program can be run at all, and what it says its version is. */
export async function programVersion(program: string): Promise<string | undefined> {
  try {
    const { stdout } = await runProgram(program, ['--version'], {});
    return stdout.trim();
  } catch {
    return undefined;
  }
}

/** `0m1.250s 0m0.310s`: user and system. */
function parseTimes(text: string): number {
  const line = text.trim().split('\n')[1] ?? '';
  return [...line.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}
