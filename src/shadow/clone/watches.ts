import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { Selection } from '#src/core/selection.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import type { Follower } from '#src/shadow/follow/follow.ts';
import { SchemaWatch } from '#src/shadow/follow/watch/schema-watch.ts';
import { createLargeObjectWatch } from '#src/shadow/large-objects/watch-large-objects.ts';
import type { ShadowRecord } from '#src/shadow/ledger.ts';
import type { Publication } from '#src/shadow/publication.ts';

import type { CloneDeps } from './clone-options.ts';

/** What is looked at while the shadow follows, since the stream does not show it. */

const WATCH_MS = 10_000;
const SCHEMA_MS = 5_000;

export type Both = AsyncDisposable & { readonly source: Session; readonly target: Session };

/** A session on each side, for one part of the work on this shadow. */
export async function openBoth(
  endpoints: { readonly source: Endpoint; readonly target: Endpoint },
  shadowId: string,
  part: string,
): Promise<Both> {
  await using opened = new AsyncDisposableStack();
  const settings = {
    applicationName: `understudy ${shadowId} ${part}`,
    answerMsMax: ANSWER_MS_MAX,
  };
  const source = opened.use(await openSession(endpoints.source, settings));
  const target = opened.use(await openSession(endpoints.target, settings));
  const both = opened.move();
  return { source, target, [Symbol.asyncDispose]: async () => both.disposeAsync() };
}

/** Sequences and large objects. */
export async function watchUnstreamed(
  deps: CloneDeps & {
    readonly both: Both;
    readonly shadowId: string;
    readonly syncSequences: () => Promise<void>;
  },
  signal: AbortSignal,
): Promise<void> {
  const { both, shadowId, clock } = deps;
  const lookAtLargeObjects = createLargeObjectWatch({ ...deps, ...both, shadowId });
  for (;;) {
    await deps.syncSequences();
    await lookAtLargeObjects();
    await clock.sleep(WATCH_MS, signal);
  }
}

/** Changes of the schema that no row has shown, and tables that appear. */
export async function watchSchema(
  deps: CloneDeps & {
    readonly both: Both;
    readonly shadow: ShadowRecord;
    readonly sourceEndpoint: Endpoint;
    readonly selection: Selection;
    readonly publication: Publication;
    readonly follower: Follower;
  },
  signal: AbortSignal,
): Promise<void> {
  const { both, shadow, follower, clock } = deps;
  const watch = new SchemaWatch({
    ...both,
    sourceEndpoint: deps.sourceEndpoint,
    selection: deps.selection,
    shadowId: shadow.shadowId,
    hasTriggers: shadow.hasDdlTriggers,
    appliedLsn: (): Lsn => follower.meter.appliedLsn,
    publication: deps.publication,
    report: deps.report,
    signal,
  });
  for (;;) {
    await watch.look();
    await follower.lookAtSchema.sleep(clock, SCHEMA_MS, signal);
  }
}
