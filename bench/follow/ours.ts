import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

import type { Endpoint } from '#src/core/endpoint.ts';

import type { Measure } from '../harness/rounds.ts';
import { type Backlog, waitForMarker } from './backlog.ts';
import type { Answer, Order } from './messages.ts';

/** Our follower on a copy of the slot: from opening it (connections, spool) until the marker is there. */
export async function runOurs(
  options: { readonly backlog: Backlog; readonly target: Endpoint; readonly slot: string },
  measure: Measure,
): Promise<void> {
  const { backlog, target, slot } = options;
  const child = fork(join(import.meta.dirname, 'follower-process.ts'));
  const exited = once(child, 'exit');
  try {
    order(child, {
      kind: 'prepare',
      source: backlog.source,
      target,
      publication: backlog.publication,
      slot,
      consistentLsn: String(backlog.slot.consistentLsn),
    });
    await answered(child, 'ready');
    await measure(async () => {
      const startedAt = performance.now();
      const stopped = answered(child, 'stopped');
      order(child, { kind: 'follow' });
      await Promise.race([waitForMarker(target), stopped]);
      const seconds = (performance.now() - startedAt) / 1000;
      order(child, { kind: 'stop' });
      const { cpuSeconds, peakMb } = await stopped;
      return { seconds, cpuSeconds, extra: { 'peak MB': peakMb } };
    });
    await exited;
  } finally {
    child.kill('SIGKILL');
  }
}

function order(child: ChildProcess, message: Order): void {
  child.send(message);
}

/** The next answer, which must be of this kind. */
async function answered<Kind extends Answer['kind']>(
  child: ChildProcess,
  kind: Kind,
): Promise<Extract<Answer, { kind: Kind }>> {
  const answer = await new Promise<Answer>((resolve, reject) => {
    child.once('message', (message: Answer) => resolve(message));
    child.once('exit', () => reject(new Error(`the follower ended before it was ${kind}`)));
  });
  if (isOfKind(answer, kind)) return answer;
  throw new Error(answer.kind === 'failed' ? answer.message : `unexpected ${answer.kind}`);
}

function isOfKind<Kind extends Answer['kind']>(
  answer: Answer,
  kind: Kind,
): answer is Extract<Answer, { kind: Kind }> {
  return answer.kind === kind;
}
