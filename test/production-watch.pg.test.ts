import { Client } from 'pg';
import { expect, test } from 'vitest';

import { until } from './chaos/shadow.ts';
import { createTestDatabase, type TestDatabase } from './postgres.ts';
import { watchProduction } from './production-watch.ts';

const SCHEMA = 'CREATE SCHEMA app; CREATE TABLE app.item (id int PRIMARY KEY, v text)';

async function connect(database: TestDatabase, name: string): Promise<Client & AsyncDisposable> {
  const client = new Client({ ...database.endpoint, ssl: false, application_name: name });
  client.on('error', () => undefined);
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: async () => client.end() });
}

/** Hold something as `name` until a statement of production was seen to wait for it. */
async function obstruct(
  database: TestDatabase,
  held: { readonly name: string; readonly sql: string },
  statement: string,
): Promise<readonly string[]> {
  await using watch = await watchProduction(database.endpoint);
  await using ours = await connect(database, held.name);
  await using production = await connect(database, 'shop');
  await ours.query(`BEGIN; ${held.sql}`);
  const waiting = production.query(statement);
  await until('production has waited for several samples', async () => {
    const rows = await database.session.query(
      `SELECT FROM pg_stat_activity WHERE application_name = 'shop' AND datname = current_database()
          AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '400 ms'`,
    );
    return rows.length > 0;
  });
  await ours.query('COMMIT');
  await waiting;
  const wrong = await watch.end();
  return [...wrong, ...watch.announced().map((line) => `announced: ${line}`)];
}

test('a lock of ours that a write of production waits for is seen', async () => {
  await using database = await createTestDatabase(17, SCHEMA);
  const ours = { name: 'understudy 0badc0de copy', sql: 'LOCK TABLE app.item IN SHARE MODE' };
  const seen = await obstruct(database, ours, `INSERT INTO app.item VALUES (1, 'zqrow')`);
  expect(seen).toEqual([
    expect.stringMatching(
      /^shop waited [\d.]+ s for understudy 0badc0de copy to get RowExclusiveLock on app\.item: INSERT/,
    ),
  ]);
});

test('a row that we lock and production updates is seen', async () => {
  await using database = await createTestDatabase(14, `${SCHEMA}; INSERT INTO app.item VALUES (1)`);
  const ours = { name: 'understudy clone', sql: 'SELECT FROM app.item FOR UPDATE' };
  expect(await obstruct(database, ours, `UPDATE app.item SET v = 'zqrow'`)).toEqual([
    expect.stringContaining('for understudy clone to get ShareLock on transactionid'),
  ]);
});

test('a TRUNCATE that waits for our reading is announced; what others hold is no concern', async () => {
  await using database = await createTestDatabase(17, SCHEMA);
  const sql = 'LOCK TABLE app.item IN ACCESS SHARE MODE';
  const ours = { name: 'understudy 0badc0de copy', sql };
  expect(await obstruct(database, ours, 'TRUNCATE app.item')).toEqual([
    expect.stringContaining('announced: shop waited'),
  ]);
  const report = { name: 'a report', sql: 'LOCK TABLE app.item IN SHARE MODE' };
  expect(await obstruct(database, report, `INSERT INTO app.item VALUES (1)`)).toEqual([]);
});
