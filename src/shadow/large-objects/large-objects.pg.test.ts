import { expect, test, vi } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { createShadow, FOLLOWING, type Shadow, until } from '#test/chaos/shadow.ts';
import { parseLines } from '#test/command.ts';
import { isFull } from '#test/full.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from '#test/postgres.ts';

vi.setConfig({ testTimeout: 120_000 });

/** An empty one, a small one, one of exactly a head, one with a hole, and one over several transactions. */
const OBJECTS = `
  CREATE TABLE public.file (id int PRIMARY KEY, body oid);
  INSERT INTO public.file VALUES
    (1, lo_create(0)),
    (2, lo_from_bytea(0, 'zqrow small')),
    (3, lo_from_bytea(0, convert_to(repeat('zqrow 7890123456', 1024), 'UTF8'))),
    (4, lo_from_bytea(0, 'zqrow hole'));
  SELECT lo_put(body, 3000000, 'after the hole') FROM public.file WHERE id = 4;
  INSERT INTO public.file SELECT 5, lo_create(0);
  DO $$ DECLARE o oid := (SELECT body FROM public.file WHERE id = 5); BEGIN
    FOR i IN 0..17 LOOP PERFORM lo_put(o, i * 1048576, decode(repeat(md5(i::text), 32768), 'hex') ||
      decode(repeat(md5((i + 100)::text), 32768), 'hex')); END LOOP; END $$;
  DO $$ BEGIN EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', (SELECT body FROM public.file WHERE id = 2), 'it''s'); END $$`;

/** By other means than the product's: each object whole. */
async function contents(session: Session): Promise<unknown> {
  return session.query(
    `SELECT oid, obj_description(oid, 'pg_largeobject') AS comment, md5(lo_get(oid)) AS content
       FROM pg_largeobject_metadata ORDER BY 1`,
  );
}

async function status(shadow: Shadow): Promise<Record<string, unknown>> {
  const [line] = parseLines((await shadow.status()).stdout).filter(({ type }) => type === 'shadow');
  const found = line?.['largeObjects'];
  return { ...(typeof found === 'object' ? found : {}) };
}

async function verdictOf(shadow: Shadow, ...args: string[]) {
  const { code, stdout } = await shadow.run(['verify', ...args]);
  const lines = parseLines(stdout);
  return {
    code,
    verified: lines.findLast(({ type }) => type === 'verified'),
    differences: lines
      .filter(({ type }) => type === 'difference')
      .map(({ kind, key }) => `${String(kind)} ${JSON.stringify(key)}`),
  };
}

async function oidOf(source: TestDatabase, id: number): Promise<string> {
  const [row] = await source.session.query('SELECT body FROM public.file WHERE id = $1', [id]);
  return row?.['body'] ?? '';
}

const PAIRS: readonly (readonly [TestVersion, TestVersion])[] = [
  [14, 18],
  ...(isFull ? ([15, 16, 17, 18] as const).map((from) => [from, 18] as const) : []),
];

test.each(PAIRS)(
  'large objects of %i come along under their OIDs; changes are told, compared and repaired',
  async (from, to) => {
    await using source = await createTestDatabase(from, OBJECTS);
    await using target = await createTestDatabase(to);
    await using shadow = await createShadow(source.endpoint, target.endpoint);
    // Killed in the middle of the large one, it goes on from there.
    const killed = await shadow.start({ failpoints: 'largeObjects.afterCommit:6' }).ended;
    expect(killed.code).toBe(null);
    const [before] = await target.session.query('SELECT * FROM understudy.large_objects');
    expect(before).toMatchObject({ state: 'copying', is_anew: 'f' });
    expect(Number(before?.['copied_offset'])).toBeGreaterThan(1_000_000);

    await using clone = shadow.start();
    await clone.waitFor(FOLLOWING);
    expect(await contents(target.session)).toEqual(await contents(source.session));
    expect(await status(shadow)).toMatchObject({ state: 'copied', objects: 5, unreadable: 0 });
    expect(await verdictOf(shadow)).toMatchObject({
      code: 0,
      differences: [],
      verified: { largeObjects: 5, differences: 0, unverified: [] },
    });

    const [empty, small, hole] = [
      await oidOf(source, 1),
      await oidOf(source, 2),
      await oidOf(source, 4),
    ];
    await source.session.query(
      `SELECT lo_put(${small}, 2, 'X'); SELECT lo_unlink(${hole}); SELECT lo_from_bytea(${Number(hole) + 100_000}, 'zqrow new')`,
    );
    await clone.waitFor('large objects of the source may have changed');
    await until('status tells', async () => (await status(shadow))['changedAt'] !== undefined);
    await target.session.query(`SELECT lo_put(${empty}, 0, 'written on the target')`);
    expect(await verdictOf(shadow)).toMatchObject({
      code: 3,
      differences: expect.arrayContaining([
        `changed {"loid":"${empty}"}`,
        `changed {"loid":"${small}"}`,
        `extra {"loid":"${hole}"}`,
        `missing {"loid":"${Number(hole) + 100_000}"}`,
      ]),
    });
    expect((await shadow.run(['verify', '--repair'])).code).toBe(0);
    // Before the next query of the session that made the changes: with it, 14 counts the last of them.
    expect((await status(shadow))['changedAt']).toBeUndefined();
    expect(await contents(target.session)).toEqual(await contents(source.session));
    expect((await shadow.run(['drop'])).code).toBe(0);
    expect(await contents(target.session)).toEqual(await contents(source.session));
  },
);

test('what the role may not read is named as unverified, and never taken for the same', async () => {
  await using source = await createTestDatabase(17, OBJECTS);
  await using target = await createTestDatabase(18);
  const role = `${source.name}_reader`;
  source.dropRoleAfterwards(role);
  await source.session.query(
    `CREATE ROLE ${role} LOGIN PASSWORD 'zqpass';
     GRANT SELECT ON public.file TO ${role};
     GRANT SELECT ON LARGE OBJECT ${await oidOf(source, 5)} TO ${role}`,
  );
  await using shadow = await createShadow(
    { ...source.endpoint, user: role, password: 'zqpass' },
    target.endpoint,
  );
  const cloned = await shadow.run(['clone', '--verify']);
  expect(cloned.code).toBe(0);
  expect(parseLines(cloned.stdout).findLast(({ type }) => type === 'verified')).toMatchObject({
    largeObjects: 5,
    differences: 0,
    unverified: [expect.stringMatching(/^large objects .* \(4 that the role may not read\)$/)],
  });
  expect(cloned.stdout).toContain('large-objects-unreadable');
  expect(await status(shadow)).toMatchObject({ objects: 1, unreadable: 4 });
  await source.session.query(`DROP OWNED BY ${role}`);
});

test('a target with large objects of its own is refused, a selection by table leaves them out', async () => {
  await using source = await createTestDatabase(15, OBJECTS);
  await using target = await createTestDatabase(16, `SELECT lo_create(0)`);
  await using shadow = await createShadow(source.endpoint, target.endpoint);
  const refused = await shadow.run(['clone']);
  expect(refused.code).toBe(2);
  expect(refused.stdout).toContain('target-large-objects');
  const cloned = await shadow.run(['clone', '--table', 'public.file', '--verify']);
  expect(cloned.code).toBe(0);
  expect(cloned.stdout).toContain('belong to no table');
  const [row] = await target.session.query('SELECT count(*) FROM pg_largeobject_metadata');
  expect(row?.['count']).toBe('1');
});

test("large objects of the target are nobody else's, also when the source has none", async () => {
  await using source = await createTestDatabase(17, 'CREATE TABLE public.one (id int PRIMARY KEY)');
  await using second = await createTestDatabase(17, 'CREATE TABLE public.two (id int PRIMARY KEY)');
  await using target = await createTestDatabase(18);
  await using shadow = await createShadow(source.endpoint, target.endpoint);
  await using other = await createShadow(second.endpoint, target.endpoint);
  await target.session.query(`SELECT lo_from_bytea(4711, 'zqrow')`);
  // A comparison would find it to be one too many, and a repair would remove it.
  const refused = await shadow.run(['clone']);
  expect([refused.code, refused.stdout]).toEqual([
    2,
    expect.stringContaining('target-large-objects'),
  ]);
  await target.session.query('SELECT lo_unlink(4711)');
  expect((await shadow.run(['clone'])).code).toBe(0);
  // It goes on with what is its own.
  expect((await shadow.run(['clone'])).code).toBe(0);
  const shared = await other.run(['clone']);
  expect([shared.code, shared.stdout]).toEqual([
    2,
    expect.stringContaining('keeps the large objects of its source'),
  ]);
  expect((await other.run(['clone', '--table', 'public.two'])).code).toBe(0);
});
