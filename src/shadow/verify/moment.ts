import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import { quoteLiteral } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { Failpoints } from '#src/lib/failpoint.ts';
import { type Fence, openFence } from '#src/shadow/fence.ts';

import type { Pair } from './pair.ts';

/** At which moment both sides are read. */
export type MomentChoice =
  /** A fence that the follower of this shadow keeps: exact, whoever writes. */
  | { readonly kind: 'fence'; readonly shadowId: string; readonly timeoutMs: number }
  /** A snapshot of the source that the target was copied from: exact, if nobody writes to the target. */
  | { readonly kind: 'snapshot'; readonly sourceSnapshot: string; readonly lsn: Lsn | undefined }
  /** Each side now: exact, if nobody writes to either (trap 27). */
  | { readonly kind: 'now' };

/** Both sides at one moment: every session of `pairs` reads it, until `leaveMoment`. */
export type Moment = {
  /** Undefined when the two sides have no position in common. */
  readonly lsn: Lsn | undefined;
  /** Still held; to be released or disposed by who entered. */
  readonly fence: Fence | undefined;
};

export async function enterMoment(options: {
  readonly choice: MomentChoice;
  readonly pairs: readonly Pair[];
  readonly source: Endpoint;
  /** On the target, for the conversation with the follower. */
  readonly control: Session;
  /** Called once the source stands, before the target does: what is read here is not newer than the target. */
  readonly onSourceRead?: () => Promise<void>;
  readonly onBlocked?: (blocker: string) => void;
  readonly failpoints: Failpoints;
}): Promise<Moment> {
  const { choice, pairs } = options;
  const sources = pairs.map(({ source }) => source);
  const targets = pairs.map(({ target }) => target);
  if (choice.kind !== 'fence') {
    await enter(sources, choice.kind === 'snapshot' ? choice.sourceSnapshot : undefined);
    await options.onSourceRead?.();
    await enter(targets, undefined);
    return { lsn: choice.kind === 'snapshot' ? choice.lsn : undefined, fence: undefined };
  }
  const fence = await openFence({
    source: options.source,
    session: options.control,
    shadowId: choice.shadowId,
    timeoutMs: choice.timeoutMs,
    failpoints: options.failpoints,
    ...(options.onBlocked === undefined ? {} : { onBlocked: options.onBlocked }),
  });
  try {
    await enter(sources, fence.sourceSnapshot);
    await fence.dropSlot();
    await options.onSourceRead?.();
    await fence.reach();
    await enter(targets, undefined);
  } catch (error) {
    await fence[Symbol.asyncDispose]();
    throw error;
  }
  return { lsn: fence.lsn, fence };
}

/** Begin a transaction in every session, all on the given snapshot or on one that is taken now. */
async function enter(sessions: readonly Session[], snapshot: string | undefined): Promise<void> {
  const begin = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';
  const [first, ...others] = sessions;
  const importing = snapshot === undefined ? others : sessions;
  let exported = snapshot ?? '';
  if (snapshot === undefined && first !== undefined) {
    await first.query(begin);
    const [row] = await first.query('SELECT pg_export_snapshot() AS snapshot');
    exported = row?.['snapshot'] ?? '';
  }
  await Promise.all(
    importing.map(async (session) => {
      await session.query(begin);
      await session.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(exported)}`);
    }),
  );
}

/** End every transaction. */
export async function leaveMoment(pairs: readonly Pair[]): Promise<void> {
  for (const { source, target } of pairs) {
    await Promise.all([source.query('ROLLBACK'), target.query('ROLLBACK')]);
  }
}
