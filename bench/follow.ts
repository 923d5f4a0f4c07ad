/**
 * How fast a backlog is applied: changes that a slot retained while nobody read it. Against Postgres's
 * own subscription, text and binary, on copies of the same slot.
 *
 *   npm run bench -- follow [--rounds N] [--scale S] [--server 15] [--only tpcb|inserts|updates]
 */
import { randomBytes } from 'node:crypto';

import type { Endpoint } from '#src/core/endpoint.ts';

import { type Backlog, copySlot, recordBacklog } from './follow/backlog.ts';
import { runNative } from './follow/native.ts';
import { runOurs } from './follow/ours.ts';
import { SCHEMA, type Workload, workloads } from './follow/workloads.ts';
import { type BenchOptions, readOptions } from './harness/options.ts';
import { printReport } from './harness/report.ts';
import { type Contender, type Measure, runRounds } from './harness/rounds.ts';
import { requireSame } from './harness/same-data.ts';
import { createDatabase, type ServerPair, startServerPair } from './harness/servers.ts';

const DEFAULT_SCALE = 0.5;

const options = readOptions('follow', { scale: DEFAULT_SCALE });
if (options !== undefined) await main(options);

async function main(bench: BenchOptions): Promise<void> {
  await using servers = await startServerPair(bench.server);
  for (const workload of workloads(bench.scale)) {
    if (workload.name.includes(bench.only)) await measureWorkload(servers, workload, bench);
  }
}

async function measureWorkload(
  servers: ServerPair,
  workload: Workload,
  { rounds, scale, server }: BenchOptions,
): Promise<void> {
  await using backlog = await recordBacklog(servers, workload);
  const contenders = contendersFor(servers, backlog);
  const samples = await runRounds({ servers, contenders, rounds });
  printReport(
    {
      benchmark: `follow ${workload.name}`,
      serverVersion: String(server),
      scale,
      rounds,
      data: `a backlog of ${workload.changes.toLocaleString('en-US')} row changes: ${workload.what}`,
      work: { amount: workload.changes / 1e5, unit: '100k changes' },
      notes: [
        'native: CREATE SUBSCRIPTION with copy_data=false, from ENABLE to the last transaction on the target.',
        'understudy: the follower, from opening it to the same; one connection, spool fsynced, dirty chunks marked.',
      ],
    },
    contenders,
    samples,
  );
}

type Run = { readonly backlog: Backlog; readonly target: Endpoint; readonly slot: string };

function contendersFor(servers: ServerPair, backlog: Backlog): readonly Contender[] {
  const contender = (
    name: string,
    isReference: boolean,
    apply: (run: Run, measure: Measure) => Promise<void>,
  ): Contender => ({
    name,
    isReference,
    run: async (measure) => {
      const slot = `follow_${randomBytes(4).toString('hex')}`;
      await using target = await createDatabase(servers.target, slot, backlog.template);
      await using copied = await copySlot(servers.source, backlog, slot);
      await apply({ backlog, target: target.endpoint, slot: copied.name }, measure);
      await requireSame(backlog.expected, target.endpoint, SCHEMA);
    },
  });
  return [
    contender('native', true, async (run, measure) =>
      runNative({ ...run, isBinary: false }, measure),
    ),
    contender('native binary', true, async (run, measure) =>
      runNative({ ...run, isBinary: true }, measure),
    ),
    contender('understudy', false, runOurs),
  ];
}
