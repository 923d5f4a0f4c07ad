import * as fc from 'fast-check';
import { expect, test, vi } from 'vitest';

import { formatLsn, lsn } from '#src/core/lsn.ts';
import { openWireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { LEDGER_SCHEMA } from '#src/db/postgres/ledger-schema.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';
import { ChangeBatch } from '#src/wire/postgres/change-batch.ts';
import { readRelationOid, readTruncate, TAG } from '#src/wire/postgres/pgoutput.ts';
import {
  anyHistory,
  History,
  type HistoryMessage,
  type HistoryTable,
  type Operation,
} from '#test/histories.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from '#test/postgres.ts';

import { ApplySession } from './apply-session.ts';
import type { ApplyTable } from './apply-table.ts';
import { readTargetColumns, tableKey } from './target-columns.ts';

const SHADOW_ID = '0badcafe';
const SEED = 20_261_120;

/** One key column in front; two, apart from each other; none, with an index that refuses rows and without. */
const TABLES: readonly HistoryTable[] = [
  { oid: 1, keyIndexes: [0], uniqueIndexes: [1, 2], longIndex: 3, columns: 5 },
  { oid: 2, keyIndexes: [1, 4], uniqueIndexes: [2], longIndex: 3, columns: 5 },
  { oid: 3, keyIndexes: [], uniqueIndexes: [2], longIndex: 3, columns: 5 },
  { oid: 4, keyIndexes: [], uniqueIndexes: [], longIndex: 3, columns: 5 },
];
const COLUMNS = ['c0', 'c1', 'c2', 'c3', 'c4'];
const DDL = `
CREATE TABLE public.t1 (c0 text PRIMARY KEY, c1 text UNIQUE, c2 text UNIQUE, c3 text, c4 text);
CREATE TABLE public.t2 (c0 text, c1 text, c2 text, c3 text, c4 text, PRIMARY KEY (c1, c4),
                        EXCLUDE USING btree (c2 WITH =));
CREATE TABLE public.t3 (c0 text, c1 text, c2 text UNIQUE, c3 text, c4 text);
CREATE TABLE public.t4 (c0 text, c1 text, c2 text, c3 text, c4 text);`;

const BEGUN = lsn(1n);

async function openTarget(db: TestDatabase, format: ValueFormat) {
  const { session } = db;
  await session.query(
    `INSERT INTO understudy.lease (shadow_id, epoch, holder) VALUES ('${SHADOW_ID}', 1, 'test')
       ON CONFLICT DO NOTHING;
     INSERT INTO understudy.progress (shadow_id, applied_lsn) VALUES ('${SHADOW_ID}', '${formatLsn(BEGUN)}')
       ON CONFLICT DO NOTHING`,
  );
  const names = TABLES.map(({ oid }) => ({ schema: 'public', name: `t${oid}` }));
  const found = await readTargetColumns(session, names);
  const tables = new Map(
    TABLES.map(({ oid, keyIndexes }, i): [number, ApplyTable] => {
      const name = names[i]!;
      const columns = COLUMNS.map((column) => found.get(tableKey(name))!.get(column)!);
      return [oid, { oid, name, keyIndexes, columns, format }];
    }),
  );
  const connection = await openWireConnection(db.endpoint, { applicationName: 'understudy test' });
  await connection.query('SET session_replication_role = replica; SET synchronous_commit = off');
  const apply = new ApplySession({
    connection,
    shadowId: SHADOW_ID,
    epoch: 1n,
    progress: { kind: 'shadow' },
    applied: BEGUN,
  });
  return { tables, apply, connection };
}

function batchOf(
  messages: readonly HistoryMessage[],
  tables: ReadonlyMap<number, ApplyTable>,
): ChangeBatch<ApplyTable> {
  const batch = new ChangeBatch<ApplyTable>();
  for (const { tag, bytes } of messages) {
    if (tag === TAG.truncate) {
      batch.addTruncate(readTruncate(bytes, 1).relationOids.map((oid) => tables.get(oid)!));
    } else {
      const table = tables.get(readRelationOid(bytes, 1))!;
      batch.addRow(table, { tag, bytes, body: 1, end: bytes.length });
    }
  }
  return batch;
}

async function rowsOf(db: TestDatabase): Promise<readonly (readonly string[])[]> {
  return Promise.all(
    TABLES.map(async ({ oid }) => {
      const rows = await db.session.query(
        `SELECT json_build_array(${COLUMNS.join(', ')})::text AS row FROM public.t${oid}`,
      );
      return rows.map(({ row }) => JSON.stringify(JSON.parse(row ?? ''))).toSorted();
    }),
  );
}

/** Rows that are there before, so that their unique values can wander. */
const START = Array.from({ length: 28 }, (_, i): Operation => ({
  table: i % 4,
  kind: 'insert',
  row: 0,
  other: 0,
  key: i >> 2,
  value: 'before',
  unique: i % 5 === 0 ? null : i >> 2,
  isLongUnchanged: false,
}));

/** A history is one batch, or several: of one transaction of the target, or of one each. */
const anyCuts = fc.array(fc.record({ at: fc.nat(60), isCommit: fc.boolean() }), { maxLength: 3 });

test.each<readonly [TestVersion, ValueFormat]>([
  [14, 'text'],
  [18, 'binary'],
])(
  'on %i what a random history leaves, applied compacted as %s, is what the source became (traps 11 and 12, pains 9, 10, 11 and 12, complaint 14)',
  async (version, format) => {
    await using db = await createTestDatabase(version, LEDGER_SCHEMA + DDL);
    const { tables, apply, connection } = await openTarget(db, format);
    await using _ = connection;
    let position = 0x1000n;
    const queries = vi.spyOn(connection, 'query');
    const commit = async (): Promise<void> => {
      position += 16n;
      await apply.commit({ endLsn: lsn(position), statements: [] });
    };
    await fc.assert(
      fc.asyncProperty(anyHistory, anyCuts, async (operations, cuts) => {
        await db.session.query('TRUNCATE public.t1, public.t2, public.t3, public.t4');
        const messages: HistoryMessage[] = [];
        const ends = new Map(cuts.map(({ at, isCommit }) => [at, isCommit]));
        const history = new History(TABLES, format === 'text' ? 't' : 'b', (message) =>
          messages.push(message),
        );
        for (const operation of START) history.write(operation);
        await apply.apply(batchOf(messages.splice(0), tables));
        await commit();
        for (const [i, operation] of operations.entries()) {
          history.write(operation);
          const isCommit = ends.get(i);
          if (isCommit === undefined && i < operations.length - 1) continue;
          await apply.apply(batchOf(messages.splice(0), tables));
          if (isCommit !== true && i < operations.length - 1) continue;
          await commit();
          expect(await rowsOf(db)).toEqual(history.models.map((model) => model.sorted()));
        }
      }),
      { numRuns: 150, seed: SEED },
    );
    // Otherwise nothing of this was about the exact replay.
    const replays = queries.mock.calls.filter(([sql]) => sql.startsWith('ROLLBACK TO'));
    expect(replays.length).toBeGreaterThan(10);
  },
);

test('what a lost connection had sent and what is sent again are not both applied (I3)', async () => {
  await using db = await createTestDatabase(18, LEDGER_SCHEMA + DDL);
  await using opened = new AsyncDisposableStack();
  const lost = await openTarget(db, 'text');
  opened.use(lost.connection);
  const again = await openTarget(db, 'text');
  opened.use(again.connection);
  const messages: HistoryMessage[] = [];
  const history = new History(TABLES, 't', (message) => messages.push(message));
  history.write({ ...START[3]!, value: 'zqrow' });
  const end = { endLsn: lsn(0x2000n), statements: [] };
  // Of a table without a key, in which nothing but the progress tells one row from the same row again.
  await lost.apply.apply(batchOf(messages, lost.tables));
  await again.apply.apply(batchOf(messages, again.tables));
  await lost.apply.commit(end);
  await expect(again.apply.commit(end)).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  const rows = await rowsOf(db);
  expect(rows.map((some) => some.length)).toEqual([0, 0, 0, 1]);
});
