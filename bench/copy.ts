/**
 * A whole copy, from the start of the program to its end: schema, data, indexes. Against pgcopydb, which
 * drives pg_dump, COPY and pg_restore.
 *
 *   npm run bench -- copy [--rounds N] [--scale S]
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Endpoint } from '#src/core/endpoint.ts';

import { createBigTables, describeBigTables, SCHEMA } from './harness/big-tables.ts';
import { type BenchOptions, readOptions } from './harness/options.ts';
import { printReport } from './harness/report.ts';
import { type Contender, type Measurement, runRounds } from './harness/rounds.ts';
import { programVersion, runProgram } from './harness/run-program.ts';
import { fingerprint, requireSame } from './harness/same-data.ts';
import {
  createDatabase,
  inDatabase,
  passwordOf,
  type ServerPair,
  startServerPair,
  urlWithoutPassword,
} from './harness/servers.ts';
import { runUnderstudy } from './harness/understudy.ts';

const DEFAULT_SCALE = 0.3;

type Ends = { readonly source: Endpoint; readonly target: Endpoint };

const options = readOptions('copy', { scale: DEFAULT_SCALE });
if (options !== undefined) await main(options);

async function main({ rounds, scale, server, only }: BenchOptions): Promise<void> {
  await using servers = await startServerPair(server);
  await using database = await createDatabase(servers.source, 'bench');
  const source = database.endpoint;
  const tables = await inDatabase(source, async (session) => createBigTables(session, scale));
  const expected = await fingerprint(source, SCHEMA);

  const tool = await findPgcopydb(server);
  const all = [
    ...(tool.isUsable ? [contender('pgcopydb', true, runPgcopydb)] : []),
    contender('understudy --jobs 2', false, async (ends) => runUnderstudy('clone', ends, 2)),
    contender('understudy --jobs 4', false, async (ends) => runUnderstudy('clone', ends, 4)),
  ];
  const contenders = all.filter(({ name, isReference }) => isReference || name.includes(only));
  const samples = await runRounds({ servers, contenders, rounds });
  printReport(
    {
      benchmark: 'copy',
      serverVersion: String(server),
      scale,
      rounds,
      data: describeBigTables(tables),
      work: { amount: tables.bytes / 1e9, unit: 'GB' },
      notes: [
        tool.note,
        'understudy: `clone`, which checks first, keeps a ledger and ends with ANALYZE; pgcopydb does none of these.',
      ],
    },
    contenders,
    samples,
  );

  function contender(
    name: string,
    isReference: boolean,
    copy: (ends: Ends) => Promise<Measurement>,
  ): Contender {
    return {
      name,
      isReference,
      run: async (measure) => {
        await using target = await createTarget(servers);
        await measure(async () => copy({ source, target: target.endpoint }));
        await requireSame(expected, target.endpoint, SCHEMA);
      },
    };
  }
}

async function createTarget(servers: ServerPair) {
  return createDatabase(servers.target, `copy_${randomBytes(4).toString('hex')}`);
}

async function runPgcopydb({ source, target }: Ends): Promise<Measurement> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-pgcopydb-'));
  try {
    const { seconds, cpuSeconds } = await runProgram(
      'pgcopydb',
      [
        'clone',
        '--source',
        urlWithoutPassword(source),
        '--target',
        urlWithoutPassword(target),
        '--table-jobs',
        '4',
        '--index-jobs',
        '4',
        '--skip-vacuum',
        '--dir',
        join(folder, 'work'),
      ],
      passwordOf(source),
    );
    return { seconds, cpuSeconds };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** It runs the pg_dump and pg_restore that it finds, which must be of the server's major or newer. */
async function findPgcopydb(server: number): Promise<{ isUsable: boolean; note: string }> {
  const version = await programVersion('pgcopydb');
  if (version === undefined) {
    const note = 'pgcopydb is not installed, so there is no ratio: apt-get install -y pgcopydb';
    return { isUsable: false, note };
  }
  const dump = await programVersion('pg_dump');
  const major = Number(/(\d+)\./.exec(dump ?? '')?.[1] ?? 0);
  if (major !== server) {
    const note = `pgcopydb needs the client tools of Postgres ${server}, so there is no ratio: apt-get install -y postgresql-client-${server}`;
    return { isUsable: false, note };
  }
  const [line = ''] = version.split('\n');
  return {
    isUsable: true,
    note: `pgcopydb: \`clone --table-jobs 4 --index-jobs 4 --skip-vacuum\`, ${line}, with ${dump}.`,
  };
}
