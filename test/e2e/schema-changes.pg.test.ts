import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { parseLines, runCommand, startCommand, urlOf } from '#test/command.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 180_000 });

const SCHEMA = `
  CREATE TABLE public.orders (id int PRIMARY KEY, note text);
  CREATE TABLE public.other (id int PRIMARY KEY, gone text);
  CREATE TABLE public.log (day int, id int, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
  CREATE TABLE public.log1 PARTITION OF public.log FOR VALUES IN (1);
  INSERT INTO public.orders SELECT g, 'zqrow' FROM generate_series(1, 100) g`;

async function ours(session: Session): Promise<readonly unknown[]> {
  return session.query(`
    SELECT evtname AS name FROM pg_event_trigger UNION ALL SELECT proname FROM pg_proc WHERE proname ~ 'understudy'
    UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'understudy'`);
}

test('event triggers come with the clone, tell of changes, and go with the shadow (trap 9)', async () => {
  await using source = await createTestDatabase(14, SCHEMA);
  await using target = await createTestDatabase(18);
  const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  const history = async (...more: readonly string[]) => {
    const { code, stdout, stderr } = await runCommand([
      'schema',
      'history',
      '--target',
      urlOf(target.endpoint),
      '--json',
      ...more,
    ]);
    expect([code, stderr]).toEqual([0, '']);
    return parseLines(stdout).filter(({ type }) => type === 'schemaVersion');
  };
  try {
    await using clone = startCommand([
      'clone',
      ...urls,
      '--follow',
      '--ddl-triggers',
      '--spool',
      spool,
      '--json',
    ]);
    await clone.waitFor('"phase":"following"');
    expect(await ours(source.session)).toHaveLength(5);
    expect(await ours(target.session)).toHaveLength(1);
    await source.session.query('CREATE INDEX ON public.orders (note)');
    await source.session.query(
      `ALTER TABLE public.orders RENAME TO sales; ALTER TABLE public.sales ADD state int DEFAULT 1`,
    );
    await clone.waitFor(/it is called .*"public\\"\.\\"sales\\" now.*has stopped/);
    await source.session.query('INSERT INTO public.other VALUES (1)');
    await vi.waitFor(
      async () => {
        expect(await target.session.query('SELECT count(*) AS n FROM public.other')).toEqual([
          { n: '1' },
        ]);
        expect(await history('--table', 'sales')).toMatchObject([
          {
            version: 1,
            table: { name: 'orders' },
            tag: 'START',
            isExact: false,
            verdict: 'goes on',
          },
          {
            version: 2,
            table: { name: 'orders' },
            tag: 'CREATE INDEX',
            isExact: true,
            verdict: 'goes on',
          },
          { version: 3, table: { name: 'sales' }, tag: 'ALTER TABLE', verdict: 'resume' },
          { version: 4, table: { name: 'sales' }, tag: 'ALTER TABLE', verdict: 'resume' },
        ]);
      },
      { timeout: 30_000, interval: 200 },
    );
    const text = await runCommand(['schema', 'history', '--target', urlOf(target.endpoint)]);
    expect(text.stdout).toContain('column "state" of type integer was added with a default');
    expect(await history('--table', 'nothing')).toEqual([]);
    // The target is adapted by hand, and a partition comes by itself.
    await source.session
      .query(`BEGIN; CREATE TABLE public.log2 PARTITION OF public.log FOR VALUES IN (2);
      INSERT INTO public.log SELECT 1 + g % 2, g FROM generate_series(1, 50) g; COMMIT`);
    await target.session.query(`ALTER TABLE public.orders RENAME TO sales;
      ALTER TABLE public.sales ADD state int DEFAULT 1`);
    await source.session.query(`UPDATE public.sales SET state = 2 WHERE id < 10`);
    const resumed = await runCommand(['resume', ...urls, '--table', 'public.sales']);
    expect([resumed.code, resumed.stderr]).toEqual([0, '']);
    await clone.waitFor(/public\\"\.\\"log2\\" follows/);
    const verified = await runCommand(['verify', ...urls, '--json']);
    expect([verified.code, verified.stderr]).toEqual([0, '']);
    const checked = await runCommand(['check', ...urls, '--ddl-triggers', '--json']);
    expect(parseLines(checked.stdout).filter(({ id }) => id === 'ddl-triggers')).toHaveLength(2);
    const dropped = await runCommand(['drop', ...urls]);
    expect([dropped.code, dropped.stderr]).toEqual([0, '']);
    expect(dropped.stdout).toContain('event trigger');
    expect((await clone.ended).code).toBe(0);
    expect(await ours(source.session)).toEqual([]);
  } finally {
    rmSync(spool, { recursive: true });
  }
});

test('a column that comes while the slot waits is copied with its values (trap 3)', async () => {
  // The copy used to take the columns of before, and nothing ever brought the new one's values.
  await using source = await createTestDatabase(17, SCHEMA);
  await using target = await createTestDatabase(18);
  const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
  const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
  try {
    await using older = await openSession(source.endpoint, { applicationName: 'older' });
    await older.query('BEGIN; SELECT pg_current_xact_id()');
    const args = ['clone', ...urls, '--follow', '--spool', spool, '--json'];
    await using clone = startCommand([...args, '--exclude-column', 'public.other.gone']);
    await clone.waitFor('the slot waits for an older transaction');
    await source.session
      .query(`ALTER TABLE public.orders ADD state text; UPDATE public.orders SET state = 'zqrow';
      ALTER TABLE public.other ADD seen text`);
    await older.query('COMMIT');
    await clone.waitFor(/was changed or dropped on the source before .*the tables are read again/);
    await clone.waitFor('"phase":"following"');
    await source.session.query(`INSERT INTO public.orders VALUES (101, 'zqrow', 'zqrow 2');
      INSERT INTO public.other (id, seen) VALUES (1, 'zqrow')`);
    const verified = await runCommand(['verify', ...urls, '--json']);
    expect([verified.code, verified.stderr]).toEqual([0, '']);
    expect(parseLines(verified.stdout).at(-1)).toMatchObject({ differences: 0, unverified: [] });
    expect(await target.session.query('SELECT DISTINCT state FROM public.orders')).toHaveLength(2);
    expect(await target.session.query('SELECT seen FROM public.other')).toEqual([
      { seen: 'zqrow' },
    ]);
  } finally {
    rmSync(spool, { recursive: true });
  }
});

test('event triggers that the role may not make are refused before anything is done', async () => {
  await using source = await createTestDatabase(18, SCHEMA);
  await using target = await createTestDatabase(18);
  const role = `${source.name}_r`;
  source.dropRoleAfterwards(role);
  await source.session.query(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'zqpass';
    GRANT CREATE ON DATABASE ${source.name} TO ${role};
    ALTER TABLE public.orders OWNER TO ${role}; ALTER TABLE public.other OWNER TO ${role};
    ALTER TABLE public.log OWNER TO ${role}; ALTER TABLE public.log1 OWNER TO ${role}`);
  const as = { ...source.endpoint, user: role, password: 'zqpass' };
  const urls = ['--source', urlOf(as), '--target', urlOf(target.endpoint)];
  const { code, stdout } = await runCommand(['check', ...urls, '--ddl-triggers', '--json']);
  const found = parseLines(stdout).filter(({ id }) => id === 'ddl-triggers-privilege');
  expect([code, found]).toMatchObject([
    2,
    [{ severity: 'refuse', fix: { runOn: 'source', text: `ALTER ROLE "${role}" SUPERUSER` } }],
  ]);
  const without = await runCommand(['check', ...urls, '--json']);
  expect(without.code).toBe(0);
  const alone = await runCommand(['clone', ...urls, '--ddl-triggers']);
  expect([alone.code, alone.stderr]).toMatchObject([
    1,
    expect.stringContaining('--ddl-triggers needs --follow'),
  ]);
  await source.session.query(`DROP OWNED BY ${role}`);
});
