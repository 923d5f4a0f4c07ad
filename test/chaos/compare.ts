import { Client } from 'pg';

import type { Endpoint } from '#src/core/endpoint.ts';

import { BALANCE } from './schema.ts';

/*
 * What both sides hold, told apart by nothing but Postgres itself: no code of the product takes part, so
 * that a mistake in its hashes or its catalog queries cannot hide one in its rows.
 */

export async function withClient<T>(
  endpoint: Endpoint,
  work: (client: Client) => Promise<T>,
): Promise<T> {
  const client = new Client({ ...endpoint, ssl: false, application_name: 'chaos' });
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query(`SET extra_float_digits = 3; SET timezone = 'UTC'; SET search_path = ''`);
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Rows and a hash over the ordered text of the rows, for each table that is not the product's own. */
async function readContents(endpoint: Endpoint): Promise<ReadonlyMap<string, string>> {
  return withClient(endpoint, async (client) => {
    const { rows: tables } = await client.query(
      `SELECT format('%I.%I', n.nspname, c.relname) AS name
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'understudy')
        ORDER BY 1`,
    );
    const contents = new Map<string, string>();
    for (const { name } of tables) {
      const { rows } = await client.query(
        `SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '-') AS digest
           FROM ONLY ${name} t`,
      );
      contents.set(name, rows[0].digest);
    }
    return contents;
  });
}

/** Tables that differ, with what either side holds; none when both are the same. */
export async function findDifferences(
  source: Endpoint,
  target: Endpoint,
): Promise<readonly string[]> {
  const [ours, theirs] = await Promise.all([readContents(source), readContents(target)]);
  const names = new Set([...ours.keys(), ...theirs.keys()]);
  return [...names]
    .filter((name) => ours.get(name) !== theirs.get(name))
    .map((name) => `${name}: source ${ours.get(name)}, target ${theirs.get(name)}`);
}

/** What is wrong with the ledger of one side, as sentences; nothing when each transaction is there once. */
export async function checkLedger(endpoint: Endpoint): Promise<readonly string[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(`
      SELECT (SELECT transactions FROM app.total) AS total, (SELECT count(*)::int FROM app.ledger) AS entries,
             (SELECT sum(number)::int FROM app.head) AS heads, (SELECT sum(balance)::int FROM app.account) AS balance,
             (SELECT count(*)::int FROM app.head h
               WHERE number <> (SELECT coalesce(max(number), 0) FROM app.ledger l WHERE l.worker = h.worker)) AS torn`);
    const [{ total, entries, heads, balance, torn }] = rows;
    const wrong: string[] = [];
    if (total !== entries) wrong.push(`${total} transactions, ${entries} in the ledger`);
    if (heads !== entries) wrong.push(`the ledger has ${entries} of ${heads} numbers`);
    if (balance !== BALANCE) wrong.push(`the balances add up to ${balance}, not ${BALANCE}`);
    if (torn !== 0) wrong.push(`${torn} workers whose head is not their last number`);
    return wrong;
  });
}

/** How many transactions this side holds. */
export async function countTransactions(endpoint: Endpoint): Promise<number> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query('SELECT transactions FROM app.total');
    return Number(rows[0]?.transactions ?? 0);
  });
}

/** Everything in the catalog that a shadow could leave behind, one line an object. */
export async function snapshotCatalog(endpoint: Endpoint): Promise<readonly string[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(`
      SELECT 'class ' || oid::regclass || ' ' || relkind::text || ' ' || relfilenode || ' ' || relreplident::text || ' ' || coalesce(relacl::text, '') || ' ' || relrowsecurity AS line
        FROM pg_catalog.pg_class WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace AND relname NOT LIKE 'scratch%'
      UNION ALL SELECT 'attribute ' || attrelid::regclass || '.' || attname || ' ' || atttypid || ' ' || attidentity::text || ' ' || attnotnull
        FROM pg_catalog.pg_attribute WHERE attrelid >= 16384
      UNION ALL SELECT 'proc ' || oid::regprocedure FROM pg_catalog.pg_proc WHERE oid >= 16384
      UNION ALL SELECT 'type ' || oid::regtype FROM pg_catalog.pg_type WHERE oid >= 16384
      UNION ALL SELECT 'namespace ' || nspname || ' ' || coalesce(nspacl::text, '') FROM pg_catalog.pg_namespace
      UNION ALL SELECT 'trigger ' || tgname || ' ' || tgrelid::regclass || ' ' || tgenabled::text FROM pg_catalog.pg_trigger
      UNION ALL SELECT 'constraint ' || conname || ' ' || conrelid::regclass || ' ' || convalidated FROM pg_catalog.pg_constraint
      UNION ALL SELECT 'event trigger ' || evtname FROM pg_catalog.pg_event_trigger
      UNION ALL SELECT 'publication ' || pubname FROM pg_catalog.pg_publication
      UNION ALL SELECT 'subscription ' || subname FROM pg_catalog.pg_subscription
      UNION ALL SELECT 'slot ' || slot_name FROM pg_catalog.pg_replication_slots WHERE database = current_database()
      UNION ALL SELECT 'setting ' || setrole || ' ' || setconfig::text FROM pg_catalog.pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      ORDER BY 1`);
    return rows.map(({ line }) => line);
  });
}
