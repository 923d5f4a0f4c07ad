import { CONSTRAINTS } from './constraints.ts';
import type { Item } from './item.ts';
import { KEY_TYPES_SQL, keyItems } from './keys.ts';
import { ADDED_LABEL_SQL, OWN_TYPES_SQL } from './literals.ts';
import { NAMES } from './names.ts';
import { EXTENSIONS_SQL, objectItems } from './objects.ts';
import { INHERITANCE, PARTITIONS } from './partitions.ts';
import { KEYED, KEYLESS } from './tables.ts';
import { typeItems } from './types.ts';

export type Hell = {
  /** To be run one after the other, a transaction each. */
  readonly scripts: readonly string[];
  readonly items: readonly Item[];
};

/**
 * The schema from hell on this major: its scripts, and what production does to it. `role` exists on the
 * source and owns a few things.
 */
export function hellSchema(major: number, role: string): Hell {
  const items = [
    ...typeItems(major),
    ...keyItems(major),
    ...KEYED,
    ...KEYLESS,
    ...INHERITANCE,
    ...PARTITIONS,
    ...CONSTRAINTS,
    ...NAMES,
    ...objectItems(role),
  ].filter(({ since = 0 }) => major >= since);
  const scripts = [
    `CREATE SCHEMA hell; ${EXTENSIONS_SQL}${OWN_TYPES_SQL}${KEY_TYPES_SQL}`,
    ADDED_LABEL_SQL,
    LEDGER_SQL,
    ...items.map((item) => `-- ${JSON.stringify(item.name)}${item.sql}`),
  ];
  return { scripts, items };
}

/**
 * What tells that each transaction was applied once: its token is inserted into a table with a key, which
 * refuses a second one, and into one that takes whatever comes. `bulk` is for what is streamed before
 * it commits.
 */
const LEDGER_SQL = `
CREATE TABLE hell.ledger (worker int, number int, token text NOT NULL, PRIMARY KEY (worker, number));
CREATE TABLE hell.keyless_ledger (token text);
ALTER TABLE hell.keyless_ledger REPLICA IDENTITY FULL;
CREATE TABLE hell.bulk (id bigint PRIMARY KEY, worker int NOT NULL, v text NOT NULL);
INSERT INTO hell.bulk SELECT -i, i % 3, 'zqrow ' || repeat(md5(i::text), 3) FROM generate_series(1, 3000) i;`;
