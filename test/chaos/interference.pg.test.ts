import { expect, test } from 'vitest';

import { parseLines, runCommand, urlOf } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { withClient } from './compare.ts';
import { createShadow, endOf, errorOf, FOLLOWING, until } from './shadow.ts';

const TABLES = `
  CREATE TABLE public.a (id int PRIMARY KEY, v text);
  CREATE TABLE public.b (id int PRIMARY KEY, v text);
  INSERT INTO public.a VALUES (1, 'zqrow a');
  INSERT INTO public.b VALUES (1, 'zqrow b')`;

/** As pg_restore --clean does it: the same names, other tables. */
const RESTORED = (table: string): string => `
  DROP TABLE public.${table};
  CREATE TABLE public.${table} (id int PRIMARY KEY, v text);
  INSERT INTO public.${table} VALUES (1, 'zqrow restored'), (2, 'zqrow restored')`;

test(
  'a dump restored over tables of the source is told, whether the follower runs or not',
  { timeout: 120_000 },
  async () => {
    await using source = await createTestDatabase(17, TABLES);
    await using target = await createTestDatabase(18);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    const stopped = async (): Promise<readonly unknown[]> => {
      const [line] = parseLines((await shadow.status()).stdout);
      return Array.isArray(line?.['stoppedTables']) ? line['stoppedTables'] : [];
    };
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      await source.session.query(RESTORED('a'));
      await until('table a is said not to follow', async () =>
        JSON.stringify(await stopped()).includes('public.a'),
      );
      clone.kill('SIGTERM');
      await endOf(clone);
    }
    await source.session.query(RESTORED('b'));
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await until('table b is said not to follow', async () =>
      JSON.stringify(await stopped()).includes('public.b'),
    );
    // A verdict never calls them the same.
    expect((await shadow.run(['verify'])).code).toBe(3);
    const rows = await target.session.query(
      'SELECT v FROM public.a UNION ALL SELECT v FROM public.b',
    );
    expect(rows.map(({ v }) => v)).toEqual(['zqrow a', 'zqrow b']);
  },
);

test(
  'drop on a copy of the target leaves the original alone, which goes on following (traps 15 and 20)',
  { timeout: 120_000 },
  async () => {
    // On one server, so that the origin of the original is seen from the copy, too.
    await using source = await createTestDatabase(18, TABLES);
    await using target = await createTestDatabase(18);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    const copyName = `${target.name}_copy`;
    await using owned = new AsyncDisposableStack();
    owned.defer(async () => {
      await source.session.query(`DROP DATABASE IF EXISTS ${copyName} WITH (FORCE)`);
    });
    {
      await using clone = shadow.start();
      await clone.waitFor(FOLLOWING);
      clone.kill('SIGTERM');
      await endOf(clone);
    }
    // A database is copied while nobody is in it.
    await target.session[Symbol.asyncDispose]();
    await until('the target is copied', async () =>
      source.session.query(`CREATE DATABASE ${copyName} TEMPLATE ${target.name}`).then(
        () => true,
        () => false,
      ),
    );
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);

    const copy = { ...target.endpoint, database: copyName };
    const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(copy)];
    const refused = await runCommand(['clone', ...urls, '--follow', '--json']);
    expect(errorOf(refused)).toBe('PROGRESS_LOST');
    const dropped = await runCommand(['drop', ...urls, '--json']);
    expect([dropped.code, dropped.stderr]).toEqual([0, '']);
    const { shadowId, ...rest } = parseLines(dropped.stdout)[0] ?? {};
    const name = `understudy_${String(shadowId)}`;
    expect(rest).toMatchObject({
      removed: ['schema understudy of the target'],
      isOfCopy: true,
      left: [
        { what: `slot ${name}, in use`, sql: expect.stringContaining(name), side: 'source' },
        { what: `publication ${name}`, sql: `DROP PUBLICATION "${name}"`, side: 'source' },
        { what: `replication origin ${name}`, side: 'target' },
        { what: expect.stringContaining(`spool ${shadow.spool}`), sql: null, side: 'disk' },
      ],
    });
    const ledger = `SELECT to_regnamespace('understudy') AS ledger`;
    const rows = await withClient(copy, async (client) => (await client.query(ledger)).rows);
    expect(rows).toEqual([{ ledger: null }]);

    await source.session.query(`INSERT INTO public.a VALUES (2, 'zqrow after the drop')`);
    await until('the original has the row', async () =>
      withClient(target.endpoint, async (client) => {
        const { rowCount } = await client.query('SELECT FROM public.a WHERE id = 2');
        return rowCount === 1;
      }),
    );
    // Of the original everything is removed, as ever.
    const last = await shadow.run(['drop']);
    expect(parseLines(last.stdout)[0]).toMatchObject({ isOfCopy: false, left: [] });
    expect((await endOf(clone)).code).toBe(0);
    const slots = await source.session.query(
      'SELECT FROM pg_replication_slots WHERE slot_name = $1',
      [name],
    );
    expect(slots).toEqual([]);
  },
);
