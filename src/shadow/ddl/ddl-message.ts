import * as z from 'zod';

import { relationShape } from '#src/core/schema-shape.ts';

const described = {
  version: z.literal(1),
  /** Several shadows may have their triggers in one database. */
  shadow: z.string(),
  tag: z.string(),
};

const list = <T extends z.ZodType>(item: T) =>
  z
    .array(item)
    .nullish()
    .transform((items) => items ?? []);

/**
 * What our event triggers say (capture-sql.ts), and what the schema watch says where it saw that a table
 * has become another: `look`, whose place in the stream is behind the change.
 */
const ddlMessage = z.discriminatedUnion('event', [
  z.object({
    ...described,
    event: z.enum(['ddl_command_end', 'sql_drop', 'table_rewrite', 'look']),
    /** The subtransaction that a trigger wrote it in, which pgoutput does not tell; a look has none. */
    xid: z.number().optional(),
    /** What the command made or changed, with the table that it belongs to. */
    objects: list(
      z.object({ tag: z.string(), type: z.string(), identity: z.string(), table: z.number() }),
    ),
    dropped: list(
      z.object({
        oid: z.number(),
        identity: z.string(),
        /** Another table has its name now. */
        isReplaced: z.boolean().optional(),
      }),
    ),
    /** The table that is about to be rewritten, and the server's reason, as bits. */
    rewritten: z.object({ oid: z.number(), reason: z.number() }).nullish(),
    /** Tables as they are after the command. */
    relations: list(relationShape),
  }),
  /** A command was not described: the catalog has to be looked at. */
  z.object({ ...described, event: z.literal('failed'), sqlstate: z.string() }),
]);

export type DdlMessage = z.infer<typeof ddlMessage>;

/**
 * What a message says; undefined for a pad, and for another shadow's. What cannot be read (anybody may
 * write a message with our prefix) is taken for a command that was not described.
 */
export function parseDdlMessage(content: string, shadowId: string): DdlMessage | undefined {
  if (content === '') return undefined;
  const parsed = ddlMessage.safeParse(parseJson(content));
  if (!parsed.success) {
    return { version: 1, shadow: shadowId, tag: 'unknown', event: 'failed', sqlstate: '' };
  }
  return parsed.data.shadow === shadowId ? parsed.data : undefined;
}

function parseJson(content: string): unknown {
  try {
    return JSON.parse(content);
  } catch {
    return undefined;
  }
}
