import { quoteTable } from '#src/core/table.ts';
import { syncSequences } from '#src/shadow/schema/sequences.ts';

import type { Build } from './build.ts';
import type { CloneDeps } from './clone-options.ts';
import type { Both } from './watches.ts';

const RETRY_MS = 500;
/** A transaction that truncates and loads may hold a sequence for hours; who waits for us would, too. */
const LAST_CHANCE_MS = 30_000;

/**
 * Bring the target's sequences along, and tell once of each that cannot be read: rows go on being applied.
 * `at the end` nobody comes back to it, so that a lock which is about to go is waited for.
 */
export async function bringSequences(
  deps: CloneDeps,
  both: Pick<Both, 'source' | 'target'>,
  build: Pick<Build, 'tables' | 'state'>,
  when: 'now' | 'at the end',
): Promise<void> {
  const { clock, report, signal } = deps;
  const { tables, partitioned } = build.tables;
  const told = build.state.toldSequences;
  const isLast = when === 'at the end';
  const owners = new Set([...tables, ...partitioned].map(quoteTable));
  const deadlineMs = clock.now() + (isLast ? LAST_CHANCE_MS : 0);
  for (;;) {
    const { unread } = await syncSequences({ ...both, tables: owners });
    if (unread.some(({ isLocked }) => isLocked) && clock.now() < deadlineMs) {
      await clock.sleep(RETRY_MS, signal);
      continue;
    }
    for (const sequence of unread) {
      const name = quoteTable(sequence);
      if (told.has(name) && !isLast) continue;
      told.add(name);
      const then = isLast ? 'it may be behind on the target' : 'it is tried again';
      const message = `sequence ${name} was not brought along: ${sequence.reason}; ${then}`;
      report({ type: 'notice', level: 'warn', message });
    }
    return;
  }
}
