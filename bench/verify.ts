/**
 * A full verification of two tables against the least that could find a difference at all: one plain
 * scan of each with the same hash of each row, on both servers at the same time.
 *
 *   npm run bench -- verify [--rounds N] [--scale S] [--server 15]
 */
import type { Endpoint } from '#src/core/endpoint.ts';
import { EVERYTHING } from '#src/core/selection.ts';
import { quoteTable, type Table } from '#src/core/table.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { planRowHashes } from '#src/db/postgres/row-hash/row-hash-plan.ts';
import { rowHashExpression } from '#src/db/postgres/row-hash/row-hash.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { openPairs, type Pair } from '#src/shadow/verify/pair.ts';
import { verifyShadow } from '#src/shadow/verify/verify.ts';

import { createBigTables, describeBigTables, SCHEMA } from './harness/big-tables.ts';
import { type BenchOptions, readOptions } from './harness/options.ts';
import { printReport } from './harness/report.ts';
import { type Contender, type Measurement, runRounds } from './harness/rounds.ts';
import { fingerprint, requireSame } from './harness/same-data.ts';
import { createDatabase, inDatabase, startServerPair } from './harness/servers.ts';
import { runUnderstudy } from './harness/understudy.ts';

const DEFAULT_SCALE = 0.3;

type Sides = { readonly source: Endpoint; readonly target: Endpoint };

const options = readOptions('verify', { scale: DEFAULT_SCALE });
if (options !== undefined) await main(options);

async function main({ rounds, scale, server, only }: BenchOptions): Promise<void> {
  await using servers = await startServerPair(server);
  await using sourceDatabase = await createDatabase(servers.source, 'bench');
  await using targetDatabase = await createDatabase(servers.target, 'bench_shadow');
  const sides = { source: sourceDatabase.endpoint, target: targetDatabase.endpoint };
  const big = await inDatabase(sides.source, async (session) => createBigTables(session, scale));
  await runUnderstudy('clone', sides, 2);
  await requireSame(await fingerprint(sides.source, SCHEMA), sides.target, SCHEMA);
  // Rows that a COPY has just written have no hint bits yet; production's have.
  await inDatabase(sides.target, async (session) => session.query('VACUUM (FREEZE, ANALYZE)'));

  await using opened = await openPairs(sides, 1);
  const [pair] = opened.pairs;
  if (pair === undefined) throw new Error('one pair was asked for');
  const tables = await readTables(pair.source, EVERYTHING);
  const rows = big.accRows + big.wideRows;
  const scan = await planScan(pair, tables);
  await scan(); // Warms the caches.

  const contenders = [
    contender('plain scan', true, async () => timed(scan)),
    contender('verify, 1 job', false, async () =>
      timed(async () => verify(sides, tables, 1, rows)),
    ),
    contender('verify, 4 jobs', false, async () =>
      timed(async () => verify(sides, tables, 4, rows)),
    ),
    contender('command, 4 jobs', false, async () => runUnderstudy('verify', sides, 4)),
  ].filter(({ name, isReference }) => isReference || name.includes(only));
  const samples = await runRounds({ servers, contenders, rounds });
  printReport(
    {
      benchmark: 'verify',
      serverVersion: String(server),
      scale,
      rounds,
      data: describeBigTables(big),
      work: { amount: big.bytes / 1e9, unit: 'GB' },
      notes: [
        'plain scan: SELECT count(*), bit_xor(hash of the row), table by table, on both servers at the same time, no workers.',
        'verify: a full verification inside a running process; command: the same as a user starts it, with the start of its process.',
      ],
    },
    contenders,
    samples,
  );
}

function contender(
  name: string,
  isReference: boolean,
  work: () => Promise<Measurement>,
): Contender {
  return { name, isReference, run: async (measure) => measure(work) };
}

/** Hash both tables on both servers, and compare the totals. */
async function planScan(pair: Pair, tables: readonly Table[]): Promise<() => Promise<void>> {
  const plans = await planRowHashes({ ...pair, tables });
  const statements = tables.map((table) => {
    const hash = rowHashExpression(plans.get(table.oid)?.compared ?? [], 't');
    return `SELECT count(*) AS rows, bit_xor(${hash}) AS hash FROM ONLY ${quoteTable(table)} AS t`;
  });
  return async () => {
    for (const sql of statements) {
      const [ours, theirs] = await Promise.all([pair.source.query(sql), pair.target.query(sql)]);
      if (JSON.stringify(ours) !== JSON.stringify(theirs)) throw new Error('the sides differ');
    }
  };
}

async function verify(
  sides: Sides,
  tables: readonly Table[],
  jobs: number,
  rows: number,
): Promise<void> {
  const verdict = await verifyShadow({
    ...sides,
    tables,
    sequences: [],
    leftOut: [],
    shadowId: undefined,
    moment: { kind: 'now' },
    isFull: true,
    jobs,
    report: () => undefined,
    failpoints: createFailpoints(undefined),
    signal: new AbortController().signal,
  });
  if (verdict.differences !== 0 || verdict.rows !== rows || verdict.unverified.length > 0) {
    throw new Error(`a wrong verdict: ${verdict.differences} differences in ${verdict.rows} rows`);
  }
}

async function timed(work: () => Promise<void>): Promise<Measurement> {
  const before = process.cpuUsage();
  const startedAt = performance.now();
  await work();
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(before);
  return { seconds, cpuSeconds: (user + system) / 1e6 };
}
