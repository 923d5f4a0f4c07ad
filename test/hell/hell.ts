import { randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';

import { createRandom } from '#src/cli/demo/random.ts';
import type { Endpoint } from '#src/core/endpoint.ts';
import { findDifferences, withClient } from '#test/chaos/compare.ts';
import {
  type Clone,
  createShadow,
  describeEnd,
  endOf,
  FOLLOWING,
  type Shadow,
  until,
  verify,
} from '#test/chaos/shadow.ts';
import { createTestDatabase, type TestDatabase } from '#test/postgres.ts';
import { watchProduction } from '#test/production-watch.ts';
import type { TestVersion } from '#test/servers.ts';

import { findSchemaDifferences } from './dump.ts';
import { NOT_FOLLOWED } from './objects.ts';
import { hellSchema } from './schema.ts';
import { startWorkload, type Workload } from './workload.ts';

export type HellOptions = {
  readonly versions: readonly [TestVersion, TestVersion];
  readonly seed: number;
  /** Whether changes of the schema are seen by event triggers, or else by polling. */
  readonly hasDdlTriggers: boolean;
  /** While the shadow follows; the copy takes as long as it takes. */
  readonly seconds: number;
  /** How often the process is killed while it copies, and while it follows. */
  readonly kills: { readonly copying: number; readonly following: number };
  readonly log: (line: string) => void;
};

/** Said, rather than left out silently. */
const LEFT_OUT_OF_VERIFY = `verify left out ["hell.unlogged (it is unlogged)"]`;
const CATCH_UP_MS = 180_000;
const FOLLOWING_MS = 180_000;

/** One shadow of the schema from hell under its workload, killed at random. Everything that was wrong. */
export async function runHell(options: HellOptions): Promise<readonly string[]> {
  const { versions, seed, log } = options;
  await using source = await createTestDatabase(versions[0]);
  await using target = await createTestDatabase(versions[1]);
  const { items } = await load({ source, target }, versions[0]);
  log(`${items.length} items, seed ${seed}`);
  await using shadow = await createShadow(source.endpoint, target.endpoint);
  await using watch = await watchProduction(source.endpoint);
  await using workload = await startWorkload(source.endpoint, { items, seed });
  const run: Run = { options, shadow, workload, random: createRandom(seed), wrong: [] };
  const clone = await followThroughKills(run);
  await workload.stop();
  log(`${workload.committed()} transactions; slowest ${JSON.stringify(workload.slowest())}`);
  for (const line of watch.announced()) log(`announced: ${line}`);
  run.wrong.push(...(await watch.end()));
  run.wrong.push(...workload.failed.map((failure) => `production lost a statement: ${failure}`));
  run.wrong.push(...(await conclude(shadow, clone)));
  log('compared');
  return run.wrong;
}

type Run = {
  readonly options: HellOptions;
  readonly shadow: Shadow;
  readonly workload: Workload;
  readonly random: () => number;
  readonly wrong: string[];
};

/** Scripts that fail name themselves by their first line. */
async function load(
  { source, target }: { readonly source: TestDatabase; readonly target: TestDatabase },
  major: TestVersion,
): Promise<ReturnType<typeof hellSchema>> {
  const role = `hell_${randomBytes(6).toString('hex')}`;
  for (const { session, dropRoleAfterwards } of [source, target]) {
    // Both may be on one server.
    const [known] = await session.query('SELECT FROM pg_roles WHERE rolname = $1', [role]);
    if (known !== undefined) continue;
    await session.query(`CREATE ROLE ${role}`);
    dropRoleAfterwards(role);
  }
  const hell = hellSchema(major, role);
  await withClient(source.endpoint, async (client) => {
    // What is larger is streamed before it commits.
    await client.query(`ALTER DATABASE ${source.name} SET logical_decoding_work_mem = '64kB'`);
    for (const script of hell.scripts) {
      await client.query(script).catch((error: unknown) => {
        throw new Error(`the schema: ${script.slice(0, 100)}`, { cause: error });
      });
    }
  });
  return hell;
}

/** The last run of the command, which follows. */
async function followThroughKills(run: Run): Promise<Clone> {
  const { shadow, options, random } = run;
  const { kills, seconds, log } = options;
  const more = options.hasDdlTriggers ? ['--ddl-triggers'] : [];
  let clone = shadow.start({ more });
  const again = async (when: string): Promise<void> => {
    if (clone.hasEnded()) {
      run.wrong.push(`the clone ended ${when}: ${describeEnd(await clone.ended)}`);
    } else {
      clone.kill('SIGKILL');
      await clone.ended;
    }
    log(`killed ${when}`);
    clone = shadow.start({ more });
  };
  for (let i = 0; i < kills.copying; i += 1) {
    // The run before may have got further than that before it was killed.
    await clone.waitFor(/"phase":"(copying|catching up)"/).catch(() => undefined);
    await wait(random() * 1500);
    await again('while it copied');
  }
  const sliceMs = (seconds * 1000) / (kills.following + 1);
  for (let i = 0; i <= kills.following; i += 1) {
    await untilFollowing(clone);
    log('it follows');
    run.workload.truncateOften();
    await wait(sliceMs * (0.5 + random()));
    if (i < kills.following) await again('while it followed');
  }
  return clone;
}

async function untilFollowing(clone: Clone): Promise<void> {
  const given = new AbortController();
  const isLate = await Promise.race([
    clone.waitFor(FOLLOWING).then(
      () => false,
      () => false,
    ),
    wait(FOLLOWING_MS, true, { signal: given.signal }).catch(() => false),
  ]);
  given.abort();
  if (!isLate) return;
  clone.kill('SIGKILL');
  throw new Error(`it does not follow after ${FOLLOWING_MS} ms: ${describeEnd(await clone.ended)}`);
}

/** Everything is applied, once, and both sides are equal: by us, and by the product itself. */
async function conclude(shadow: Shadow, clone: Clone): Promise<readonly string[]> {
  const { source, target } = shadow;
  const tokens = await readTokens(source);
  try {
    await until(
      `${tokens.count} transactions on the target, and every table follows`,
      async () => {
        if (clone.hasEnded()) return true;
        if ((await readTokens(target)).count < tokens.count) return false;
        // A partition that has just arrived is copied, and catches up.
        return (await findUnfollowed(source, target)).length === 0;
      },
      CATCH_UP_MS,
    );
  } catch (error) {
    return [
      String(error),
      ...(await readStopped(target)),
      ...(await findUnfollowed(source, target)),
    ];
  }
  if (clone.hasEnded()) return [`the clone ended: ${describeEnd(await endOf(clone))}`];
  return [
    ...(await readStopped(target)),
    ...(await checkArrivals(source)),
    ...(await checkTokens(source)).map((wrong) => `source: ${wrong}`),
    ...(await checkTokens(target)).map((wrong) => `target: ${wrong}`),
    ...(await findDifferences(source, target)).filter(
      (difference) => !NOT_FOLLOWED.some((table) => difference.startsWith(`${table}:`)),
    ),
    ...(await findObjectDifferences(source, target)),
    ...(await verify(shadow)).filter((wrong) => wrong !== LEFT_OUT_OF_VERIFY),
    // Last, since it undoes what keeps the tables as they are while they are shadowed.
    ...(await findSchemaDifferences(source, target)),
  ];
}

async function readTokens(endpoint: Endpoint): Promise<{ readonly count: number }> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query('SELECT count(*)::int AS count FROM hell.ledger');
    return { count: rows[0].count };
  });
}

/** Each transaction is there once, in the table that would refuse a second one and in the one that would not. */
async function checkTokens(endpoint: Endpoint): Promise<readonly string[]> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(`
      SELECT coalesce(l.token, k.token) || ' is ' || count(l.token) || ' times in the ledger, ' || coalesce(max(k.n), 0) || ' times in the other' AS wrong
        FROM hell.ledger l
        FULL JOIN (SELECT token, count(*) AS n FROM hell.keyless_ledger GROUP BY 1) k ON k.token = l.token
       GROUP BY l.token, k.token HAVING count(l.token) <> 1 OR coalesce(max(k.n), 0) <> 1`);
    return rows.map(({ wrong }) => wrong);
  });
}

async function readArrivals(source: Endpoint): Promise<readonly string[]> {
  return withClient(source, async (client) => {
    const { rows } = await client.query(
      `SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'hell.arriving'::regclass`,
    );
    return rows.map(({ name }) => name);
  });
}

/** One was there from the beginning. */
async function checkArrivals(source: Endpoint): Promise<readonly string[]> {
  return (await readArrivals(source)).length < 2 ? ['no partition has arrived'] : [];
}

/** Partitions of the source that the shadow does not follow, or not yet. */
async function findUnfollowed(source: Endpoint, target: Endpoint): Promise<readonly string[]> {
  const wanted = await readArrivals(source);
  const copied = await withClient(target, async (client) => {
    const { rows } = await client.query(
      `SELECT table_name AS name FROM understudy.relation WHERE schema_name = 'hell' AND state = 'copied'`,
    );
    return new Set(rows.map(({ name }) => name));
  });
  return wanted.filter((name) => !copied.has(name)).map((name) => `${name} is not followed`);
}

async function readStopped(target: Endpoint): Promise<readonly string[]> {
  return withClient(target, async (client) => {
    const { rows } = await client.query(
      `SELECT to_jsonb(r)::text AS relation FROM understudy.relation r WHERE state <> 'copied'`,
    );
    return rows.map(({ relation }) => `not followed: ${relation}`);
  });
}

/** Large objects, which no table holds. */
async function findObjectDifferences(
  source: Endpoint,
  target: Endpoint,
): Promise<readonly string[]> {
  const [ours, theirs] = await Promise.all([readObjects(source), readObjects(target)]);
  return ours === theirs ? [] : [`large objects: source ${ours}, target ${theirs}`];
}

async function readObjects(endpoint: Endpoint): Promise<string> {
  return withClient(endpoint, async (client) => {
    const { rows } = await client.query(
      `SELECT oid || ' ' || md5(lo_get(oid)) AS line FROM pg_largeobject_metadata ORDER BY oid`,
    );
    return rows.map(({ line }) => line).join(', ');
  });
}
