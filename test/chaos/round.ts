import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { createRandom } from '#src/cli/demo/random.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import { type FaultProxy, startFaultProxy } from '#test/fault-proxy.ts';
import type { TestVersion } from '#test/servers.ts';

import { checkLedger, countTransactions, snapshotCatalog, withClient } from './compare.ts';
import { type CrashServer, createPlainRole, startCrashServer } from './crash-server.ts';
import { readFailpointNames } from './failpoint-names.ts';
import { type DisturbanceName, pick, type Plan, planFault, planRound } from './plan.ts';
import { bulkRows, CHAOS_SCHEMA } from './schema.ts';
import {
  type Clone,
  createShadow,
  describeEnd,
  endOf,
  errorOf,
  FOLLOWING,
  JUMPING_CLOCK,
  settle,
  type Shadow,
  verify,
} from './shadow.ts';
import { createTinyDisk, ownFolder, type TinyDisk } from './tiny-disk.ts';
import { startWorkload, type Workload } from './workload.ts';

/** One seed: a shadow that is made and followed while everything dies around it. */
export type RoundOptions = {
  readonly seed: number;
  readonly versions: readonly [TestVersion, TestVersion];
  readonly disturbances: number;
  readonly log: (line: string) => void;
};

/** What ends a run that the next one mends. */
const MENDED = new Set([
  'CONNECTION_LOST',
  'CONNECTION_FAILED',
  'LEASE_HELD',
  'SLOT_IN_USE',
  'SNAPSHOT_LOST',
  'TABLE_REWRITTEN',
]);
/** The same while a disk is full. */
const MENDED_BY_ROOM = new Set(['SPOOL_FULL', 'STATEMENT_FAILED', 'SCHEMA_RESTORE_FAILED']);
const SPOOL_DISK_MB = 512;
const TARGET_DISK_MB = 1024;
const SETTLE_TRIES = 8;
const FOLLOWING_MS = 60_000;

type Round = {
  readonly options: RoundOptions;
  /** Of the step under way. */
  random: () => number;
  readonly source: CrashServer;
  readonly target: CrashServer;
  readonly toSource: FaultProxy;
  readonly toTarget: FaultProxy;
  /** Undefined where nobody may mount any. */
  readonly spoolDisk: TinyDisk | undefined;
  readonly targetDisk: TinyDisk | undefined;
  readonly shadow: Shadow;
  readonly workload: Workload;
  readonly failpoints: readonly string[];
  readonly wrong: string[];
  clone: Clone;
  /** The target was a whole state of the source once, and has to be one ever since. */
  wasInStep: boolean;
  nextFailpoint: string | undefined;
  /** A disk was full in the step that is over. */
  wasFull: boolean;
  /** Parts of the copy that are on record, and when: none is copied again (trap 1). */
  readonly parts: Map<string, string>;
  /** What each says that was wrong with it. */
  readonly verifications: Promise<string | undefined>[];
};

/** Everything that was wrong in the end, as sentences. */
export async function runRound(options: RoundOptions): Promise<readonly string[]> {
  const { seed, versions } = options;
  const startedMs = performance.now();
  const log = (line: string): void => {
    options.log(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s  ${line}`);
  };
  const plan = planRound(seed, options.disturbances);
  log(`seed ${seed}: ${versions[0]} to ${versions[1]}, ${plan.rows} bulk rows`);
  await using stack = new AsyncDisposableStack();
  const disks = [createTinyDisk(SPOOL_DISK_MB), createTinyDisk(TARGET_DISK_MB)] as const;
  const [spoolDisk, targetDisk] = await Promise.all(disks);
  for (const disk of [spoolDisk, targetDisk]) if (disk !== undefined) stack.use(disk);
  const [source, target] = await Promise.all([
    startCrashServer(versions[0], 'production', CHAOS_SCHEMA + bulkRows(plan.rows)),
    startCrashServer(
      versions[1],
      'shadow',
      '',
      targetDisk && (await ownFolder(join(targetDisk.path, 'tablespace'))),
    ),
  ]);
  stack.use(source);
  stack.use(target);
  const before = await snapshotCatalog(source.endpoint);
  const isPlain = versions[1] >= 15 && plan.isPlain;
  const role = isPlain ? await createPlainRole(target.endpoint) : target.endpoint;
  log(`as ${role.user}`);
  const toSource = stack.use(await startFaultProxy(source.endpoint));
  const toTarget = stack.use(await startFaultProxy(role));
  const ways = {
    source: toSource.endpoint,
    target: toTarget.endpoint,
    ...(spoolDisk === undefined ? {} : { spool: spoolDisk.path }),
  };
  const shadow = stack.use(await createShadow(source.endpoint, target.endpoint, ways));
  const workload = stack.use(await startWorkload(source.endpoint, seed));
  const round: Round = {
    options: { ...options, log },
    random: createRandom(seed),
    source,
    target,
    toSource,
    toTarget,
    spoolDisk,
    targetDisk,
    shadow,
    workload,
    failpoints: (await readFailpointNames()).filter(
      (name) => !/^(drop|verify|repair|fence|stop)\./.test(name),
    ),
    wrong: [],
    clone: shadow.start({ env: JUMPING_CLOCK }),
    wasInStep: false,
    nextFailpoint: undefined,
    wasFull: false,
    parts: new Map(),
    verifications: [],
  };
  watchStep(round);
  for (const step of plan.steps) {
    if (round.wrong.length > 0) break;
    round.random = createRandom(step.seed);
    await pause(round, step);
    await disturb(round, step.name);
    await look(round);
    await keepRunning(round);
  }
  await conclude(round, before);
  return round.wrong;
}

/** Sometimes until the shadow is in step, so that both phases get their share. */
async function pause({ clone }: Round, step: Plan['steps'][number]): Promise<void> {
  if (step.awaitsStep) {
    const given = new AbortController();
    await Promise.race([
      clone.waitFor(FOLLOWING).catch(() => undefined),
      clone.ended,
      wait(FOLLOWING_MS, undefined, { signal: given.signal }).catch(() => undefined),
    ]);
    given.abort();
  }
  await wait(step.pauseMs);
}

type Disturbance = (round: Round) => Promise<unknown>;

const ACTIONS: Readonly<Record<DisturbanceName, Disturbance>> = {
  'kill the process': async ({ clone }) => clone.kill('SIGKILL'),
  'kill the process at a failpoint': async (round) => {
    const { failpoints, random, clone } = round;
    const name = failpoints[Math.floor(random() * failpoints.length)];
    round.nextFailpoint = `${name}:${1 + Math.floor(random() * random() * 20)}`;
    clone.kill('SIGKILL');
  },
  'end one connection to the source': async (round) =>
    endConnections(round, round.source.endpoint, 1),
  'end one connection to the target': async (round) =>
    endConnections(round, round.target.endpoint, 1),
  'end all connections to the source': async (round) =>
    endConnections(round, round.source.endpoint, 100),
  'end all connections to the target': async (round) =>
    endConnections(round, round.target.endpoint, 100),
  'crash the source': async ({ source, workload }) => {
    workload.announceCrash();
    await source.crash();
  },
  'crash the target': async ({ target }) => target.crash(),
  'restart the source': async ({ source, workload }) => {
    workload.announceCrash();
    await source.restart();
  },
  'restart the target': async ({ target }) => target.restart(),
  // What the target had only in memory, and the process that knew better, are both gone (trap 16).
  'crash the target and kill the process': async ({ target, clone, options, wasInStep }) => {
    const before = wasInStep ? await countTransactions(target.endpoint) : 0;
    const crashed = target.crash();
    clone.kill('SIGKILL');
    await crashed;
    if (!wasInStep) return;
    const after = await countTransactions(target.endpoint);
    options.log(`  the target had ${before} transactions, and has ${after}`);
  },
  'interrupt the process': async ({ clone, wrong }) => {
    clone.kill('SIGINT');
    const { code } = await endOf(clone, 'as it was told to');
    if (code !== 130 && code !== null && code !== 1)
      wrong.push(`interrupted, it ended with ${code}`);
  },
  'verify meanwhile': async (round) => round.verifications.push(verifyMeanwhile(round, [])),
  'verify all meanwhile': async (round) =>
    round.verifications.push(verifyMeanwhile(round, ['--full'])),
  'repair meanwhile': async (round) =>
    round.verifications.push(verifyMeanwhile(round, ['--full', '--repair'])),
  'crash everything': async ({ source, target, clone, workload }) => {
    workload.announceCrash();
    clone.kill('SIGKILL');
    await Promise.all([source.crash(), target.crash()]);
  },
  'let the process sleep': async ({ clone, random }) => {
    clone.kill('SIGSTOP');
    await wait(random() * 2000);
    clone.kill('SIGCONT');
  },
  'let the applying backend sleep': async ({ target, random }) =>
    sleepFor(await ourPids(target.endpoint, 'apply$'), random() * 2000),
  // What an exported snapshot hangs on need not run for it.
  'let the keeper sleep': async ({ source, random }) =>
    sleepFor(await ourPids(source.endpoint, 'keeper$'), random() * 2000),
  'stop the source': async ({ source, random }) =>
    sleepFor(await source.processes(), random() * 3000),
  'stop the target': async ({ target, random }) =>
    sleepFor(await target.processes(), random() * 3000),
  // The checkpointer, a walsender, whoever it is.
  'stop one process of the source': async ({ source, random }) =>
    sleepFor([pick(random, await source.processes())], random() * 3000),
  'stop one process of the target': async ({ target, random }) =>
    sleepFor([pick(random, await target.processes())], random() * 3000),
  'set the clock of the process': async ({ clone, random }) => {
    const jumps = 1 + Math.floor(random() * 4);
    for (let i = 0; i < jumps && !clone.hasEnded(); i += 1) {
      clone.kill('SIGUSR2');
      await wait(random() * 1000);
    }
  },
  'disturb the link to the source': async (round) => disturbLink(round, round.toSource),
  'disturb the link to the target': async (round) => disturbLink(round, round.toTarget),
  'disturb one connection to the source': async (round) =>
    disturbLink(round, round.toSource, pick(round.random, [/receive$/, /copy$/, /monitor$/])),
  'disturb one connection to the target': async (round) =>
    disturbLink(round, round.toTarget, pick(round.random, [/apply$/, /copy$/, /monitor$/])),
  'fill the disk of the spool': async (round) => fillDisk(round, round.spoolDisk),
  'fill the disk of the target': async (round) => fillDisk(round, round.targetDisk),
};

async function sleepFor(pids: readonly number[], ms: number): Promise<void> {
  signal(pids, 'SIGSTOP');
  await wait(ms);
  signal(pids, 'SIGCONT');
}

/** Some may have ended meanwhile. */
function signal(pids: readonly number[], name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      continue;
    }
  }
}

async function disturbLink(round: Round, proxy: FaultProxy, links?: RegExp): Promise<void> {
  const { random, options } = round;
  const fault = { ...planFault(random), ...(links === undefined ? {} : { links }) };
  options.log(`  ${JSON.stringify(fault)} ${links?.source ?? ''}`);
  proxy.inject(fault);
  await wait(random() * 3000);
  proxy.heal();
}

async function fillDisk(round: Round, disk: TinyDisk | undefined): Promise<void> {
  if (disk === undefined) {
    round.options.log('  skipped: nobody may mount a file system here');
    return;
  }
  round.wasFull = true;
  await disk.fill();
  await wait(round.random() * 4000);
  await disk.free();
}

async function disturb(round: Round, name: DisturbanceName): Promise<void> {
  const phase = round.wasInStep ? 'in step before' : 'never in step';
  round.options.log(`${name} (${phase}, ${round.workload.committed()} transactions)`);
  round.wasFull = false;
  await ACTIONS[name](round);
}

/** It may fail like everything else, but never see a difference: there is none at any fence. */
async function verifyMeanwhile(
  { shadow, wasInStep }: Round,
  options: readonly string[],
): Promise<string | undefined> {
  if (!wasInStep) return undefined;
  try {
    const ended = await shadow.run(['verify', ...options]);
    const isDifferent = ended.stdout.includes('"type":"difference"');
    return isDifferent ? `verify meanwhile: ${describeEnd(ended)}` : undefined;
  } catch (error) {
    return `verify meanwhile: ${String(error)}`;
  }
}

/** The server processes of the shadow, keepers included. */
async function ourPids(endpoint: Endpoint, pattern: string): Promise<readonly number[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      `SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name ~ '^understudy [0-9a-f]{8}' AND application_name ~ $1
        ORDER BY application_name`,
      [pattern],
    );
    return rows.map(({ pid }) => pid);
  });
}

async function endConnections(round: Round, endpoint: Endpoint, atMost: number): Promise<void> {
  const pids = await ourPids(endpoint, '');
  const first = Math.floor(round.random() * pids.length);
  const chosen = [...pids.slice(first), ...pids.slice(0, first)].slice(0, atMost);
  await withClient(endpoint, async (client) =>
    client.query('SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid', [chosen]),
  );
}

/** At any moment the target is a whole state of the source, once it has been one (I3). */
async function look(round: Round): Promise<void> {
  await lookAtParts(round);
  if (!round.wasInStep) return;
  const wrong = await checkLedger(round.target.endpoint);
  round.wrong.push(...wrong.map((one) => `in between, target: ${one}`));
}

/** A part that is on record stays as it is, for as long as its snapshot lives. */
async function lookAtParts({ target, parts, wrong }: Round): Promise<void> {
  const now = await withClient(target.endpoint, async (client) => {
    const { rows: known } = await client.query(`SELECT to_regclass('understudy.part') AS name`);
    if (known[0].name === null) return [];
    const { rows } = await client.query(
      `SELECT source_oid || '/' || generation || '/' || part AS part, copied_at::text AS at FROM understudy.part`,
    );
    return rows;
  });
  for (const { part, at } of now) {
    const before = parts.get(part);
    if (before !== undefined && before !== at) wrong.push(`part ${part} was copied again`);
    parts.set(part, at);
  }
}

/** As a service manager does: start again what has ended, unless its reason says that it is no use. */
async function keepRunning(round: Round): Promise<void> {
  const { clone, shadow, options } = round;
  if (clone.hasEnded()) {
    const ended = await clone.ended;
    const code = errorOf(ended);
    const isMended = MENDED.has(code ?? '') || (round.wasFull && MENDED_BY_ROOM.has(code ?? ''));
    if (ended.code !== null && ended.code !== 130 && !isMended) {
      round.wrong.push(`the clone ended: ${describeEnd(ended)}`);
      return;
    }
    if (code !== undefined) options.log(`  it had ended with ${code}`);
    if (round.nextFailpoint !== undefined) options.log(`  it dies at ${round.nextFailpoint}`);
    round.clone = shadow.start({ failpoints: round.nextFailpoint, env: JUMPING_CLOCK });
    round.nextFailpoint = undefined;
    watchStep(round);
  }
}

function watchStep(round: Round): void {
  round.clone
    .waitFor(FOLLOWING)
    .then(() => (round.wasInStep = true))
    .catch(() => undefined);
}

async function conclude(round: Round, catalogBefore: readonly string[]): Promise<void> {
  const { shadow, workload, wrong, source } = round;
  await workload.stop();
  round.options.log('the load has stopped');
  wrong.push(...(await Promise.all(round.verifications)).filter((one) => one !== undefined));
  wrong.push(...workload.failed.map((failure) => `production lost a statement: ${failure}`));
  let found: readonly string[] = [];
  for (let i = 0; i < SETTLE_TRIES && wrong.length === 0; i += 1) {
    await keepRunning(round);
    found = await settle(shadow, round.clone);
    if (!round.clone.hasEnded()) break;
  }
  wrong.push(...found);
  if (wrong.length > 0) return;
  round.options.log('both sides are equal');
  wrong.push(...(await verify(shadow)));
  round.options.log('verified');
  const dropped = await shadow.run(['drop']);
  if (dropped.code !== 0) wrong.push(`drop: ${describeEnd(dropped)}`);
  const after = await snapshotCatalog(source.endpoint);
  const had = new Set(catalogBefore);
  const has = new Set(after);
  wrong.push(
    ...after.filter((line) => !had.has(line)).map((line) => `left on the source: ${line}`),
    ...catalogBefore
      .filter((line) => !has.has(line))
      .map((line) => `gone from the source: ${line}`),
  );
}
