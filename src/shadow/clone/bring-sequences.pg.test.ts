import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { createFailpoints } from '#src/lib/failpoint.ts';
import { createLogger } from '#src/lib/log.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { bringSequences } from './bring-sequences.ts';

test('a sequence that stays locked is told of once while following, and once more at the end (trap 27)', async () => {
  const ddl = 'CREATE TABLE public.t (id serial PRIMARY KEY)';
  await using source = await createTestDatabase(18, ddl);
  await using target = await createTestDatabase(18, ddl);
  await using production = await openSession(source.endpoint, { applicationName: 'test' });
  const said: string[] = [];
  let nowMs = 0;
  const deps = {
    report: (event: { readonly type: string; readonly message?: string }) =>
      said.push(event.message ?? ''),
    log: createLogger('silent'),
    clock: { now: () => nowMs, sleep: async (ms: number) => void (nowMs += ms) },
    signal: new AbortController().signal,
    failpoints: createFailpoints(undefined),
  };
  const both = { source: source.session, target: target.session };
  const build = {
    tables: await readRelations(source.session, EVERYTHING),
    state: {
      isInStep: false,
      wasInStep: false,
      epoch: undefined,
      toldSequences: new Set<string>(),
    },
  };
  await production.query('BEGIN; TRUNCATE public.t RESTART IDENTITY');
  const why =
    'sequence "public"."t_id_seq" was not brought along: another transaction has locked it';
  await bringSequences(deps, both, build, 'now');
  await bringSequences(deps, both, build, 'now');
  expect(said).toEqual([`${why}; it is tried again`]);
  expect(nowMs).toBe(0);
  await bringSequences(deps, both, build, 'at the end');
  expect(said.slice(1)).toEqual([`${why}; it may be behind on the target`]);
  expect(nowMs).toBeGreaterThan(1_000);
});
