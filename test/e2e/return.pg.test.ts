import { expect, test, vi } from 'vitest';

import { createShadow, FOLLOWING, until } from '#test/chaos/shadow.ts';
import { parseLines } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 180_000 });

const ROWS = ['changed', 'rewritten', 'steady']
  .map(
    (name) => `CREATE TABLE public.${name} (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
      INSERT INTO public.${name} (id, v) SELECT i, 'zqrow ' || i FROM generate_series(1, 500) i;`,
  )
  .join('\n');

test('a stopped table is a difference until resume or reseed, with or without a follower', async () => {
  await using source = await createTestDatabase(14, ROWS);
  await using target = await createTestDatabase(18);
  await using shadow = await createShadow(source.endpoint, target.endpoint);
  const states = async () =>
    (
      await target.session.query(
        `SELECT string_agg(table_name || ' ' || state, ', ' ORDER BY table_name) AS states FROM understudy.relation`,
      )
    )[0]?.['states'];
  const change = async (sql: string): Promise<void> => {
    await source.session.query(sql);
    await source.session.query(`UPDATE public.steady SET n = n + 1`);
  };
  {
    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    await change(
      `ALTER TABLE public.changed ADD a int; UPDATE public.changed SET a = id WHERE id < 100`,
    );
    await until(
      'the table has stopped',
      async () => (await states()) === 'changed stopped, rewritten copied, steady copied',
    );
    const status = parseLines((await shadow.status()).stdout).find(({ type }) => type === 'shadow');
    expect(status?.['stoppedTables']).toEqual([
      expect.objectContaining({
        table: 'public.changed',
        state: 'stopped',
        code: 'TABLE_CHANGED',
        waitsFor: 'resume',
        stopLsn: expect.any(String),
        foreignKeys: [],
      }),
    ]);
    expect((await shadow.run(['verify'])).code).toBe(3);
    const refused = await shadow.run(['resume', '--table', 'public.changed']);
    expect([refused.code, refused.stdout]).toEqual([1, expect.stringContaining('RETURN_REFUSED')]);
    expect((await shadow.run(['resume', '--table', 'public.nothing'])).stdout).toContain(
      'SELECTION_EMPTY',
    );
    clone.kill('SIGKILL');
    await clone.ended;
  }
  // Nobody follows: the command does it itself, and a second one finds nothing to do.
  await change(`UPDATE public.changed SET a = a + 1, n = 7 WHERE id < 200`);
  await target.session.query('ALTER TABLE public.changed ADD a int');
  const resumed = await shadow.run(['resume', '--table', 'changed']);
  expect(parseLines(resumed.stdout)).toContainEqual(
    expect.objectContaining({ type: 'returned', by: 'resume' }),
  );
  expect(resumed.code).toBe(0);
  expect(await states()).toBe('changed copied, rewritten copied, steady copied');
  const clean = await shadow.run(['verify']);
  expect([clean.code, clean.stdout]).toEqual([0, expect.stringContaining('"differences":0')]);

  await using clone = shadow.start();
  await clone.waitFor(FOLLOWING);
  await target.session.query('DELETE FROM public.rewritten');
  await change(`UPDATE public.rewritten SET n = n + 1 WHERE id < 50`);
  await until(
    'the other table has stopped',
    async () => (await states()) === 'changed copied, rewritten stopped, steady copied',
  );
  await change(`DELETE FROM public.rewritten WHERE id < 20`);
  const reseeded = await shadow.run(['reseed', '--table', 'public.*']);
  expect([reseeded.code, reseeded.stdout]).toEqual([0, expect.stringContaining('rewritten')]);
  expect((await shadow.run(['verify'])).code).toBe(0);
  const again = await shadow.run(['reseed', '--table', 'steady']);
  expect([again.code, again.stdout]).toEqual([1, expect.stringContaining('has not stopped')]);
});
