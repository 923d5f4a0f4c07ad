import type { ProgressEvent } from '#src/core/progress.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { SchemaWatch } from '#src/shadow/follow/watch/schema-watch.ts';

import { followPair } from './follower.ts';

/** A pair without event triggers, and a watch that looks when it is told. */
export async function watchedPair(versions: Parameters<typeof followPair>[0], ddl: string) {
  await using owned = new AsyncDisposableStack();
  const pair = owned.use(await followPair(versions, ddl));
  const source = owned.use(await openSession(pair.source.endpoint, { applicationName: 'watch' }));
  const target = owned.use(await openSession(pair.target.endpoint, { applicationName: 'watch' }));
  const events: ProgressEvent[] = [];
  const watch = new SchemaWatch({
    source,
    target,
    sourceEndpoint: pair.source.endpoint,
    selection: EVERYTHING,
    shadowId: pair.shadow.shadowId,
    publication: {
      name: pair.shadow.publicationName ?? '',
      oid: pair.shadow.publicationOid ?? 0,
    },
    hasTriggers: false,
    appliedLsn: () => pair.follower.meter.appliedLsn,
    report: (event) => void events.push(event),
    signal: new AbortController().signal,
  });
  const resources = owned.move();
  return {
    pair,
    /** Look, and let the follower take in what was seen. */
    look: async () => {
      await watch.look();
      // Applied counts commits, and the first of these only lies behind the look.
      await pair.caughtUp();
      await pair.caughtUp();
      await watch.look();
    },
    said: () => events.flatMap((event) => (event.type === 'notice' ? [event.message] : [])),
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}
