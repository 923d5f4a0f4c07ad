import { setTimeout as wait } from 'node:timers/promises';

import { Client, DatabaseError } from 'pg';

import { createRandom } from '#src/cli/demo/random.ts';
import type { Endpoint } from '#src/core/endpoint.ts';

import { WORKERS } from './schema.ts';

/**
 * Production: workers that run random transactions from a seed. Each keeps to its own rows, so that
 * nothing of it can fail; only `total` is shared, and taken last. What fails all the same, other than
 * by a crash that the test announced, is the fault of the shadow.
 */
export type Workload = AsyncDisposable & {
  /** Statements that the server refused, or connections that were lost without an announced crash. */
  readonly failed: readonly string[];
  readonly committed: () => number;
  /** The server is about to go away and come back. */
  readonly announceCrash: () => void;
  /** Ends after the transactions under way. */
  readonly stop: () => Promise<void>;
};

type Random = () => number;

/** Between two transactions of a worker. */
const PAUSE_MS = 15;
const RECONNECT_MS = 100;
const LARGE_ROWS = 3000;

export async function startWorkload(endpoint: Endpoint, seed: number): Promise<Workload> {
  const failed: string[] = [];
  const state = { committed: 0, isStopped: false, crashedAtMs: -Infinity };
  const isExpected = (error: unknown): boolean =>
    isOutage(error) && performance.now() - state.crashedAtMs < OUTAGE_MS;
  const run = async (worker: number): Promise<void> => {
    const random = createRandom(seed * 31 + worker);
    while (!state.isStopped) {
      try {
        await work(endpoint, worker, random, state);
      } catch (error) {
        if (!isExpected(error)) {
          failed.push(error instanceof Error ? error.message : String(error));
        }
        await wait(RECONNECT_MS);
      }
    }
  };
  const workers = Promise.all(Array.from({ length: WORKERS }, async (_, worker) => run(worker)));
  const stop = async (): Promise<void> => {
    state.isStopped = true;
    await workers;
  };
  return {
    failed,
    committed: () => state.committed,
    announceCrash: () => {
      state.crashedAtMs = performance.now();
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** A crashed server is back within this. */
const OUTAGE_MS = 60_000;

/** Connection trouble, or what a server says while it goes and comes (class 57). */
function isOutage(error: unknown): boolean {
  return !(error instanceof DatabaseError) || error.code?.startsWith('57') === true;
}

async function work(
  endpoint: Endpoint,
  worker: number,
  random: Random,
  state: { committed: number; readonly isStopped: boolean },
): Promise<void> {
  const client = new Client({ ...endpoint, ssl: false });
  // The next statement fails as well.
  client.on('error', () => undefined);
  await client.connect();
  try {
    // Whether the last COMMIT before a crash counted is for the server to say.
    const { rows } = await client.query('SELECT number FROM app.head WHERE worker = $1', [worker]);
    for (let number = rows[0].number + 1; !state.isStopped; number += 1) {
      for (const sql of transaction(worker, number, random)) await client.query(sql);
      state.committed += 1;
      await wait(PAUSE_MS * 2 * random());
    }
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** The statements of one transaction. */
function transaction(worker: number, number: number, random: Random): readonly string[] {
  const context = { worker, number, random };
  const statements = ['BEGIN'];
  if (random() < 0.01) statements.push(...large(context));
  const count = 1 + Math.floor(random() * 5);
  for (let i = 0; i < count; i += 1) {
    const change = CHANGES[Math.floor(random() * CHANGES.length)];
    const some = change?.(context, `${number}.${i}`) ?? [];
    const isRolledBack = random() < 0.15;
    if (isRolledBack) statements.push('SAVEPOINT s', ...some, 'ROLLBACK TO SAVEPOINT s');
    else if (random() < 0.15) statements.push('SAVEPOINT k', ...some, 'RELEASE SAVEPOINT k');
    else statements.push(...some);
  }
  statements.push(
    `INSERT INTO app.ledger (worker, number) VALUES (${worker}, ${number})`,
    `UPDATE app.head SET number = ${number} WHERE worker = ${worker}`,
    `UPDATE app.total SET transactions = transactions + 1`,
    'COMMIT',
  );
  return statements;
}

type Context = { readonly worker: number; readonly number: number; readonly random: Random };
type Change = (context: Context, salt: string) => readonly string[];

/** One of the worker's own rows of a table, as a subquery for its key. */
function one(table: string, key: string, worker: number, salt: string): string {
  return `(SELECT ${key} FROM app.${table} WHERE owner = ${worker} ORDER BY md5(${key}::text || '${salt}') LIMIT 1)`;
}

const CHANGES: readonly Change[] = [
  // Money moves: the sum shows whether a transaction arrived whole.
  ({ worker, random }, salt) => {
    const amount = 1 + Math.floor(random() * 50);
    return [
      `UPDATE app.account SET balance = balance - ${amount}, seen = clock_timestamp() WHERE id = ${one('account', 'id', worker, `${salt}a`)}`,
      `UPDATE app.account SET balance = balance + ${amount} WHERE id = ${one('account', 'id', worker, `${salt}b`)}`,
    ];
  },
  // Composite key: changed, deleted, inserted again.
  ({ worker }, salt) => [
    `WITH gone AS (DELETE FROM app."Order Line" WHERE ("order", line) =
       (SELECT "order", line FROM app."Order Line" WHERE owner = ${worker} ORDER BY md5("order" || '.' || line || '${salt}') LIMIT 1) RETURNING *)
     INSERT INTO app."Order Line" ("order", line, owner, qty, mood)
     SELECT "order", line + 1000, owner, qty + 0.125, 'Busy' FROM gone`,
    `UPDATE app."Order Line" SET qty = qty * 1.5, mood = 'it''s odd' WHERE owner = ${worker} AND line > 1000 AND "order" % 5 = ${salt.length % 5} AND qty < 1000`,
  ],
  // Unchanged TOAST, also under a key that changes (trap 11).
  ({ worker, random }, salt) => {
    const id = one('document', 'id', worker, salt);
    const update = `UPDATE app.document SET version = version + 1`;
    if (random() < 0.5) return [`${update} WHERE id = ${id}`];
    if (random() < 0.5)
      return [`${update}, id = md5(id::text || '${salt}')::uuid WHERE id = ${id}`];
    return [
      `${update}, body = repeat(md5('${salt}'), 300), tags = tags || ARRAY['t'] WHERE id = ${id}`,
    ];
  },
  ({ worker }, salt) => [
    `INSERT INTO app.document SELECT md5('${worker} ${salt}')::uuid, ${worker}, 0, repeat('x' || '${salt}', 900), NULL ON CONFLICT DO NOTHING`,
    `DELETE FROM app.document WHERE id = ${one('document', 'id', worker, salt)}`,
  ],
  // Text keys that are renamed, and renamed back within the transaction.
  ({ worker }, salt) => [
    `UPDATE app.label SET uses = uses + 1, extra = extra || '{"s": "${salt}"}' WHERE name = ${one('label', 'name', worker, salt)}`,
    `UPDATE app.label SET name = name || '~' WHERE name = ${one('label', 'name', worker, `${salt}r`)}`,
    `UPDATE app.label SET name = rtrim(name, '~') WHERE owner = ${worker} AND name LIKE '%~~%'`,
  ],
  // A unique value goes from row to row.
  ({ worker }, salt) => [
    `UPDATE app.seat SET place = 'moving ${worker}' WHERE id = ${one('seat', 'id', worker, salt)}`,
    `UPDATE app.seat SET place = 'place of ' || id || ' since ${salt}' WHERE id = ${one('seat', 'id', worker, `${salt}b`)}`,
    `UPDATE app.seat SET place = 'at ' || id || ' since ${salt}' WHERE place = 'moving ${worker}'`,
  ],
  // Every other time nothing but the swap is left of it, which only the exact order gets past the index.
  ({ worker, number }, salt) => [
    `WITH pair AS (SELECT min(id) AS a, max(id) AS b FROM app.seat WHERE owner = ${worker}),
          old AS (SELECT (SELECT place FROM app.seat, pair WHERE id = a) AS pa, (SELECT place FROM app.seat, pair WHERE id = b) AS pb)
     UPDATE app.seat SET place = id || ' of ${salt}, once ' || left(place, 40) FROM pair, old WHERE id IN (a, b) AND ${number % 2} = 0`,
    `DO $$ DECLARE pa text; pb text; a int; b int; BEGIN
       SELECT min(id), max(id) INTO a, b FROM app.seat WHERE owner = ${worker};
       SELECT place INTO pa FROM app.seat WHERE id = a; SELECT place INTO pb FROM app.seat WHERE id = b;
       UPDATE app.seat SET place = 'swap ${worker}' WHERE id = a;
       UPDATE app.seat SET place = pa WHERE id = b;
       UPDATE app.seat SET place = pb WHERE id = a;
     END $$`,
  ],
  // Partitions; a row that is deleted and inserted again under the same key.
  ({ worker }, salt) => [
    `WITH gone AS (DELETE FROM app.reading WHERE id = ${one('reading', 'id', worker, salt)} RETURNING *)
     INSERT INTO app.reading SELECT id + 1000000, owner, value * 1.1, at + 1 FROM gone WHERE id < 1000000000 RETURNING id`,
    `DO $$ DECLARE r app.reading; BEGIN
       DELETE FROM app.reading WHERE id = ${one('reading', 'id', worker, `${salt}b`)} RETURNING * INTO r;
       INSERT INTO app.reading VALUES (r.id, r.owner, -r.value, r.at);
     END $$`,
  ],
  // Rows that move to other pages while the pages are copied, of which there may be less (trap 1).
  ({ worker, random }) => {
    const id = -(WORKERS * (50 + Math.floor(random() ** 2 * 50_000)) + worker);
    return [
      `UPDATE app.bulk SET payload = md5(payload) || payload WHERE id = ${id} AND length(payload) < 2000`,
    ];
  },
  // Only the first worker touches it: TRUNCATE would wait for the other's locks, and the other for its own.
  ({ worker, random }, salt) => {
    if (worker !== 0) return [];
    const insert = `INSERT INTO app.scratch (payload) SELECT '${salt} ' || i FROM generate_series(1, 5) i`;
    // Rarely: a table that is truncated while it is copied starts again (trap 2).
    if (random() < 0.97) return [insert];
    return [insert, 'TRUNCATE app.scratch', insert];
  },
];

/** Beyond logical_decoding_work_mem: streamed before it commits, with a part that is rolled back. */
function large({ worker, number }: Context): readonly string[] {
  const first = `${number}::bigint * 100000 + ${worker} * 50000`;
  return [
    `INSERT INTO app.bulk SELECT ${first} + i, ${worker}, md5(i::text) || repeat('z', i % 50) FROM generate_series(1, ${LARGE_ROWS}) i`,
    'SAVEPOINT large',
    `UPDATE app.bulk SET payload = 'never' WHERE owner = ${worker} AND id > ${first}`,
    'ROLLBACK TO SAVEPOINT large',
    `UPDATE app.bulk SET payload = payload || '+' WHERE id > ${first} AND id <= ${first} + 500`,
    `DELETE FROM app.bulk WHERE owner = ${worker} AND id > 0 AND id <= ${first} - 200000`,
  ];
}
