import type { RelationShape } from '#src/core/schema-shape.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { DDL_PREFIX } from './capture-sql.ts';

/** What a look at the catalog found about one table. */
export type Look =
  | {
      readonly kind: 'changed';
      readonly shape: RelationShape;
      /** It has another file, too. */
      readonly isRewritten: boolean;
    }
  | {
      readonly kind: 'gone';
      readonly oid: number;
      readonly identity: string;
      /** Another table has its name now. */
      readonly isReplaced: boolean;
    };

/** Write what was found into the stream, one message a table. */
export async function sendLook(
  source: Session,
  shadowId: string,
  looks: readonly Look[],
): Promise<void> {
  if (looks.length === 0) return;
  const messages = looks.map((look) =>
    JSON.stringify({
      version: 1,
      shadow: shadowId,
      event: 'look',
      tag: 'LOOK',
      ...(look.kind === 'gone'
        ? { dropped: [{ oid: look.oid, identity: look.identity, isReplaced: look.isReplaced }] }
        : {
            relations: [look.shape],
            // No reason is known; 0 is none of the server's.
            rewritten: look.isRewritten ? { oid: look.shape.oid, reason: 0 } : null,
          }),
    }),
  );
  await source.query(
    `SELECT pg_catalog.pg_logical_emit_message(true, $1, pg_catalog.convert_to(m, 'UTF8')) FROM unnest($2::text[]) AS m`,
    [DDL_PREFIX, messages],
  );
}
