import { expect, test } from 'vitest';

import { parseLines } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { createShadow, endOf, FOLLOWING, until } from './shadow.ts';

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
