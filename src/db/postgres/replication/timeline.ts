import { type Lsn, parseLsn } from '#src/core/lsn.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** Where WAL left a timeline for the next one: what was written there from `endLsn` on is in no later one. */
export type TimelineEnd = { readonly timeline: number; readonly endLsn: Lsn };

/**
 * The ancestors of a server's timeline, oldest first; the first timeline has none. Asked on a replication
 * connection. https://www.postgresql.org/docs/current/protocol-replication.html
 */
export async function readTimelineHistory(
  connection: WireConnection,
  timeline: number,
): Promise<readonly TimelineEnd[]> {
  if (timeline === 1) return [];
  const [result] = await connection.query(`TIMELINE_HISTORY ${timeline}`);
  return parseTimelineHistory(result?.rows[0]?.[1] ?? '');
}

/**
 * The content of a history file: `timeline<TAB>position<TAB>reason` in each line, and comments. Throws
 * PROTOCOL_VIOLATION.
 */
export function parseTimelineHistory(text: string): readonly TimelineEnd[] {
  const lines = text.split('\n').map((line) => line.trim());
  return lines
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [, timeline, position] = /^(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line) ?? [];
      const endLsn = parseLsn(position ?? '');
      if (timeline === undefined || endLsn === undefined) {
        throw new OperatorError('PROTOCOL_VIOLATION', 'TIMELINE_HISTORY gave no timeline history');
      }
      return { timeline: Number(timeline), endLsn };
    });
}
