import type { Endpoint } from '#src/core/endpoint.ts';

import { inDatabase } from './servers.ts';

/**
 * The contents of a schema in one text, by means that the product does not use: rows as text, hashed by
 * the server, and the definitions of indexes and constraints. The same on two servers of one major.
 */
export async function fingerprint(endpoint: Endpoint, schema: string): Promise<string> {
  return inDatabase(endpoint, async (session) => {
    const tables = await session.query(
      `SELECT c.oid::regclass::text AS name FROM pg_class c
        WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' ORDER BY 1`,
      [schema],
    );
    const lines: string[] = [];
    for (const { name } of tables) {
      const [row] = await session.query(
        `SELECT count(*) AS rows, sum(hashtextextended(t::text, 0)) AS hash FROM ${name} t`,
      );
      lines.push(`${name} ${row?.['rows']} ${row?.['hash']}`);
    }
    const definitions = await session.query(
      `SELECT pg_get_indexdef(i.indexrelid) AS sql FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = $1::regnamespace AND i.indisvalid
       UNION ALL
       SELECT n.conrelid::regclass || ' ' || pg_get_constraintdef(n.oid) FROM pg_constraint n
        WHERE n.connamespace = $1::regnamespace
       ORDER BY 1`,
      [schema],
    );
    return [...lines, ...definitions.map(({ sql }) => sql)].join('\n');
  });
}

/** Throws with what differs: a wrong result has no speed. */
export async function requireSame(
  expected: string,
  endpoint: Endpoint,
  schema: string,
): Promise<void> {
  const actual = await fingerprint(endpoint, schema);
  if (actual !== expected) {
    throw new Error(`the result is wrong.\nexpected:\n${expected}\nfound:\n${actual}`);
  }
}
