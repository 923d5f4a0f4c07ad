import type { Lsn } from '#src/core/lsn.ts';
import { HEARTBEAT_PREFIX } from '#src/shadow/follow/watch/heartbeat.ts';

import type { FollowedTable } from './followed-table.ts';

/**
 * What the follower does on a transactional logical message, by its prefix. A message is met at its place
 * inside of its transaction: after the changes before it, before those after it, and again whenever the
 * group that holds it is rolled back.
 *
 * A handler may throw TABLE_CHANGED, with the source's OID as `relation` in `detail`: the group is rolled
 * back, what ended before the transaction is applied, and the table stops there (apply-changes.ts).
 */
export type LogicalMessage = {
  readonly content: string;
  /** Of the transaction that holds it. */
  readonly commitLsn: Lsn;
  /** Subtransactions that were rolled back after they had been streamed. The message may be of one of them. */
  readonly abortedXids: ReadonlySet<number>;
  /** By source OID, stopped ones included. */
  readonly tables: ReadonlyMap<number, FollowedTable>;
};

export type MessageEffect = {
  /** Statements for the transaction of the target that commits the message's transaction. */
  readonly statements?: readonly string[];
  /** When we sent it; our clock. */
  readonly heartbeatMs?: number;
};

export type MessageHandler = (message: LogicalMessage) => MessageEffect | undefined;

export type MessageHandlers = ReadonlyMap<string, MessageHandler>;

/** The handlers of the main loop; messages with any other prefix are not for us. */
export function messageHandlers(shadowId: string): MessageHandlers {
  return new Map([[HEARTBEAT_PREFIX, heartbeatHandler(shadowId)]]);
}

function heartbeatHandler(shadowId: string): MessageHandler {
  return ({ content }) => {
    const [sender, sentMs] = content.split(' ');
    return sender === shadowId ? { heartbeatMs: Number(sentMs) } : undefined;
  };
}
