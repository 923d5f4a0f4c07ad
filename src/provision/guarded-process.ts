import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { type Readable, Writable } from 'node:stream';

import { assert } from '#src/lib/assert.ts';

import { SERVER_ENVIRONMENT } from './data-folder.ts';
import type { Account } from './server-account.ts';

/*
 * A server that cannot outlive this process, however that dies.
 *
 * A small shell stands between: it starts the server, tells its process id, and waits for it. A second
 * one beside it reads a pipe that only we hold. When the pipe ends, we are gone (kill -9 included), and
 * it stops the server. Where util-linux's setpriv exists, the kernel also stops the server should the
 * shell itself be killed. All are in sessions of their own, so Ctrl-C reaches only us and the order of
 * stopping stays ours.
 *
 * SIGINT is sent again and again: a server ignores it until it has installed its handlers.
 */
const SERVER_SCRIPT = `
if setpriv --pdeathsig INT true 2>/dev/null; then set -- setpriv --pdeathsig INT "$@"; fi
"$@" </dev/null >/dev/null 3<&- &
server=$!
echo "$server"
(
  read -r word
  left=100
  while [ "$left" -gt 0 ] && kill -0 "$server"; do
    if [ "$left" -gt 50 ]; then kill -INT "$server"; else kill -QUIT "$server"; fi
    left=$((left - 1))
    sleep 0.1
  done
  kill -KILL "$server"
) <&3 >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait "$server"
kill "$guard" 2>/dev/null
wait "$guard"
`;

/**
 * Removes the folder once we and the server are gone. It runs as ourselves: the server's account could
 * not remove what we have put there. Processes of ours may be writing to it until they notice, too.
 */
const FOLDER_SCRIPT = `
read -r word && exit
left=200
while [ "$left" -gt 0 ] && kill -0 "$1"; do left=$((left - 1)); sleep 0.1; done
for try in 1 2 3 4 5; do rm -rf "$2" && exit; sleep 1; done
`;

export type GuardedProcess = {
  readonly processId: number;
  readonly stderr: Readable;
  /** Resolves when the server has ended. */
  readonly exited: Promise<void>;
  readonly hasExited: () => boolean;
};

/** Start `program`; `removeAfterDeath` is the folder to remove when this process dies before the server does. */
export async function spawnGuarded(options: {
  readonly program: string;
  readonly args: readonly string[];
  readonly directory: string;
  readonly account: Account | undefined;
  readonly removeAfterDeath: string | undefined;
}): Promise<GuardedProcess> {
  const shell = spawn('/bin/sh', ['-c', SERVER_SCRIPT, 'sh', options.program, ...options.args], {
    cwd: options.directory,
    env: SERVER_ENVIRONMENT,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    ...options.account,
  });
  const { stdout, stderr } = shell;
  const lifeline = shell.stdio[3];
  assert(stdout && stderr && lifeline instanceof Writable, 'a guarded process has its pipes');
  let guard: ChildProcess | undefined;
  let isOver = false;
  const exited = (async () => {
    await once(shell, 'exit');
    isOver = true;
    lifeline.destroy();
    if (guard === undefined) return;
    guard.stdin?.end('all is well\n');
    // Not left to whoever adopts it: the first process of a container may not look after orphans.
    await once(guard, 'exit');
  })();
  const [line] = await Promise.race([
    once(createInterface({ input: stdout }), 'line'),
    exited.then(() => ['0']),
  ]);
  const processId = Number(line);
  const folder = options.removeAfterDeath;
  if (folder !== undefined && !isOver) guard = spawnFolderGuard(folder, processId);
  return { processId, stderr, exited, hasExited: () => isOver };
}

function spawnFolderGuard(folder: string, processId: number): ChildProcess {
  const guard = spawn('/bin/sh', ['-c', FOLDER_SCRIPT, 'sh', String(processId), folder], {
    cwd: '/',
    env: SERVER_ENVIRONMENT,
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  // It may be gone before we tell it something, as everything may.
  guard.stdin.on('error', () => undefined);
  return guard;
}
