import { setTimeout as wait } from 'node:timers/promises';

import { Client } from 'pg';

import { createRandom } from '#src/cli/demo/random.ts';
import type { Endpoint } from '#src/core/endpoint.ts';

import { below, type Item, pick, type Turn } from './item.ts';

/**
 * Production: workers that each take their share of the items in turn, so that everything is changed all
 * the time. An item belongs to one worker, and each transaction ends with its tokens, so nothing of the
 * workload can wait for itself or fail. What a worker decides follows from the seed alone.
 */
export type Workload = AsyncDisposable & {
  /** What the server refused: its message and the statement. */
  readonly failed: readonly string[];
  readonly committed: () => number;
  /** The longest statements: what production felt. */
  readonly slowest: () => { readonly milliseconds: number; readonly statement: string };
  /** The copy is over: tables may be emptied as often as they like. */
  readonly truncateOften: () => void;
  /** Ends after the transactions under way. */
  readonly stop: () => Promise<void>;
};

export const WORKERS = 3;

/** Enough to be streamed before the end, where logical_decoding_work_mem is at its least. */
const LARGE_ROWS = 2500;
/** One transaction in so many is large. */
const LARGE_EACH = 40;
const NAMED_MAX = 200;
/** Between two transactions of a worker: a machine that also runs other tests has to keep up. */
const PAUSE_MS = 15;
const TRUNCATE_RARELY = 0.03;
const TRUNCATE_OFTEN = 0.6;

export async function startWorkload(
  endpoint: Endpoint,
  options: { readonly items: readonly Item[]; readonly seed: number },
): Promise<Workload> {
  const state: State = {
    isStopped: false,
    truncates: TRUNCATE_RARELY,
    committed: 0,
    failed: [],
    slowest: SLOWEST_NONE,
  };
  const workers = Promise.all(
    Array.from({ length: WORKERS }, async (_, worker) => {
      const client = new Client({ ...endpoint, ssl: false, application_name: 'production' });
      client.on('error', () => undefined);
      await client.connect();
      const items = options.items.filter((_item, i) => i % WORKERS === worker);
      const random = createRandom(options.seed * 31 + worker);
      try {
        for (let number = 1; !state.isStopped; number += 1) {
          const { database } = endpoint;
          const { truncates } = state;
          const context = { database, worker, number, items, random, truncates };
          await runTransaction(client, transactionOf(context), state);
          await wait(PAUSE_MS);
        }
      } finally {
        await client.end().catch(() => undefined);
      }
    }),
  );
  // Not unhandled while the test does something else.
  workers.catch((error: unknown) => state.failed.push(String(error)));
  const stop = async (): Promise<void> => {
    state.isStopped = true;
    await workers.catch(() => undefined);
  };
  return {
    failed: state.failed,
    committed: () => state.committed,
    slowest: () => state.slowest,
    truncateOften: () => {
      state.truncates = TRUNCATE_OFTEN;
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

type Slowest = ReturnType<Workload['slowest']>;
const SLOWEST_NONE: Slowest = { milliseconds: 0, statement: '' };

type State = {
  isStopped: boolean;
  truncates: number;
  committed: number;
  readonly failed: string[];
  slowest: Slowest;
};

/** A refused statement ends its transaction and is kept; the next transaction goes on. */
async function runTransaction(
  client: Client,
  statements: readonly string[],
  state: State,
): Promise<void> {
  for (const statement of statements) {
    const startedMs = performance.now();
    try {
      await client.query(statement);
    } catch (error) {
      state.failed.push(`${String(error)}: ${statement.slice(0, NAMED_MAX)}`);
      await client.query('ROLLBACK');
      return;
    }
    const milliseconds = performance.now() - startedMs;
    if (milliseconds > state.slowest.milliseconds) {
      state.slowest = { milliseconds, statement: statement.slice(0, NAMED_MAX) };
    }
  }
  state.committed += 1;
}

/** What touches a temporary table cannot be prepared. */
const USES_TEMPORARY = /CREATE TEMP|REFRESH/;

type Context = {
  readonly database: string;
  readonly worker: number;
  readonly number: number;
  readonly items: readonly Item[];
  readonly random: () => number;
  readonly truncates: number;
};

/** The next few items of the worker's own, and the tokens that tell that the transaction was there once. */
function transactionOf(context: Context): readonly string[] {
  const { worker, number, items, random } = context;
  const token = `zqrow ${worker}.${number}`;
  const perTransaction = 3;
  const pieces = Array.from({ length: perTransaction }, (_, i) => {
    const item = items[((number - 1) * perTransaction + i) % items.length];
    if (item === undefined) throw new Error('there is no item');
    const mayTruncate = random() < context.truncates;
    return pieceOf(item, { random, salt: `${token}.${i}`, mayTruncate });
  });
  if (number % LARGE_EACH === worker) pieces.push(large(context));
  const body = [
    ...pieces.flat(),
    `INSERT INTO hell.ledger VALUES (${worker}, ${number}, '${token}')`,
    `INSERT INTO hell.keyless_ledger VALUES ('${token}')`,
  ];
  const canBePrepared = !body.some((statement) => USES_TEMPORARY.test(statement));
  if (!canBePrepared || random() > 0.15) return ['BEGIN', ...body, 'COMMIT'];
  // Names of prepared transactions belong to the whole server.
  const gid = `'${context.database} ${token}'`;
  return ['BEGIN', ...body, `PREPARE TRANSACTION ${gid}`, `COMMIT PREPARED ${gid}`];
}

/** One change of an item; sometimes first in a subtransaction that is rolled back. */
function pieceOf(item: Item, turn: Turn): readonly string[] {
  const statements = pick(item.changes, turn.random)(turn);
  if (turn.random() > 0.15) return statements;
  const rolledBack = pick(item.changes, turn.random)({ ...turn, salt: `${turn.salt}.never` });
  return [
    'SAVEPOINT piece',
    ...rolledBack,
    'ROLLBACK TO SAVEPOINT piece',
    'RELEASE SAVEPOINT piece',
    ...statements,
  ];
}

/** Streamed before it commits, with parts that are rolled back and parts that are not. */
function large({ worker, number, random }: Context): readonly string[] {
  const first = `(${number}::bigint * 100000 + ${worker} * 10000)`;
  const rows = LARGE_ROWS + below(500, random);
  return [
    `INSERT INTO hell.bulk SELECT ${first} + i, ${worker}, 'zqrow ' || repeat(md5(i::text), 2) FROM generate_series(1, ${rows}) i`,
    'SAVEPOINT outer_one',
    `UPDATE hell.bulk SET v = 'zqrow never' WHERE worker = ${worker} AND id > ${first}`,
    'SAVEPOINT inner_one',
    `DELETE FROM hell.bulk WHERE worker = ${worker} AND id > ${first}`,
    ...(random() < 0.5 ? ['RELEASE SAVEPOINT inner_one'] : []),
    'ROLLBACK TO SAVEPOINT outer_one',
    `UPDATE hell.bulk SET v = v || '+' WHERE id > ${first} AND id <= ${first} + 400`,
    'SAVEPOINT kept',
    `UPDATE hell.bulk SET id = -id, v = v || '-' WHERE id > ${first} + 400 AND id <= ${first} + 450`,
    'RELEASE SAVEPOINT kept',
    `DELETE FROM hell.bulk WHERE worker = ${worker} AND id > 0 AND id <= ${first} - 9000000`,
  ];
}
