import type { Report } from '#src/core/progress.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { areChangesCounted, readFingerprint } from './fingerprint.ts';
import { noteChange, readLargeObjects } from './large-object-ledger.ts';

/** Looks whether the source's large objects have changed since they were copied, and says it once. */
export function createLargeObjectWatch(deps: {
  readonly source: Session;
  readonly target: Session;
  readonly shadowId: string;
  readonly report: Report;
}): () => Promise<void> {
  const { source, target, shadowId, report } = deps;
  let hasSaidUncounted = false;
  const warn = (message: string): void => report({ type: 'notice', level: 'warn', message });
  return async () => {
    const record = await readLargeObjects(target, shadowId);
    if (record === undefined || record.changedAt !== undefined) return;
    if (!hasSaidUncounted && !(await areChangesCounted(source))) {
      hasSaidUncounted = true;
      warn(
        'the source counts no changes (track_counts is off): only verify sees those of large objects',
      );
    }
    if ((await readFingerprint(source)) === record.fingerprint) return;
    if (!(await noteChange(target, shadowId, record.fingerprint))) return;
    warn(
      'large objects of the source may have changed since they were copied; verify --repair brings them over',
    );
  };
}
