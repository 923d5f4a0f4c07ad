import { expect, test } from 'vitest';

import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase, TEST_VERSIONS, type TestDatabase } from '#test/postgres.ts';

import { tryCapture, installCapture, readCapture, removeCapture } from './capture.ts';
import { type DdlMessage, parseDdlMessage } from './ddl-message.ts';

const ID = '0a1b2c3d';

/** A database with the capture installed, and a slot that shows what is written from now on. */
async function captured(version: (typeof TEST_VERSIONS)[number], sql: string) {
  await using owned = new AsyncDisposableStack();
  const source = owned.use(await createTestDatabase(version, sql));
  await installCapture(source.session, ID);
  await source.session.query(`SELECT pg_create_logical_replication_slot($1, 'test_decoding')`, [
    source.name,
  ]);
  const resources = owned.move();
  return {
    source,
    /** Rows and payloads since the last call, in the order of the stream. */
    decoded: async () => decode(source),
    [Symbol.asyncDispose]: async () => resources.disposeAsync(),
  };
}

type Decoded = { readonly row: string } | { readonly message: DdlMessage };

async function decode(source: TestDatabase): Promise<readonly Decoded[]> {
  const rows = await source.session.query(
    `SELECT data FROM pg_logical_slot_get_changes($1, NULL, NULL, 'skip-empty-xacts', '1')`,
    [source.name],
  );
  return rows.flatMap((row): readonly Decoded[] => {
    const data = row['data'] ?? '';
    if (data.startsWith('table ')) return [{ row: data }];
    const [, content] =
      /^message: .*prefix: understudy\.ddl, sz: \d+ content:(.*)$/s.exec(data) ?? [];
    const message = content === undefined ? undefined : parseDdlMessage(content, ID);
    return message === undefined ? [] : [{ message }];
  });
}

/** `row`, or the columns of the only table that a message shows. */
function summary(decoded: readonly Decoded[]): readonly string[] {
  return decoded.map((one) => {
    if ('row' in one) return 'row';
    if (one.message.event === 'failed') return 'failed';
    const [relation] = one.message.relations;
    return relation === undefined
      ? one.message.tag
      : relation.columns.map(({ name }) => name).join(' ');
  });
}

const TABLE = `CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)`;

/** Everything that may stand between a command and the next row of the new shape. */
const ORDERS: Readonly<Record<string, string>> = {
  'one transaction': `BEGIN; INSERT INTO public.t VALUES (2); ALTER TABLE public.t ADD b int;
    INSERT INTO public.t VALUES (3, 3); COMMIT`,
  'a savepoint': `BEGIN; INSERT INTO public.t VALUES (2); SAVEPOINT s; ALTER TABLE public.t ADD b int;
    INSERT INTO public.t VALUES (3, 3); RELEASE SAVEPOINT s; COMMIT`,
  'a savepoint around the command alone': `BEGIN; INSERT INTO public.t VALUES (2); SAVEPOINT s;
    ALTER TABLE public.t ADD b int; RELEASE SAVEPOINT s; INSERT INTO public.t VALUES (3, 3); COMMIT`,
  'an exception block': `DO $$ BEGIN INSERT INTO public.t VALUES (2);
    BEGIN ALTER TABLE public.t ADD b int; EXCEPTION WHEN OTHERS THEN RAISE; END;
    INSERT INTO public.t VALUES (3, 3); END $$`,
  'a function': `CREATE FUNCTION public.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.t VALUES (2);
      EXECUTE 'ALTER TABLE public.t ADD b int'; EXECUTE 'INSERT INTO public.t VALUES (3, 3)'; END $$;
    SELECT public.f()`,
};

test.for(TEST_VERSIONS)(
  'version %i: the description of a change comes before the first row of the new shape (trap 9)',
  async (version) => {
    await using capture = await captured(version, TABLE);
    const { session } = capture.source;
    for (const [name, sql] of Object.entries(ORDERS)) {
      await session.query(sql);
      expect([name, summary(await capture.decoded())]).toEqual([name, ['row', 'id b', 'row']]);
      await session.query('DELETE FROM public.t WHERE id > 1; ALTER TABLE public.t DROP b');
      await capture.decoded();
    }
    await session.query(`BEGIN; INSERT INTO public.t VALUES (2); SAVEPOINT s;
      ALTER TABLE public.t ADD b int; INSERT INTO public.t VALUES (3, 3); ROLLBACK TO SAVEPOINT s;
      INSERT INTO public.t VALUES (4); COMMIT`);
    expect(summary(await capture.decoded())).toEqual(['row', 'row']);
    await session.query('BEGIN; ALTER TABLE public.t ADD b int; ROLLBACK');
    expect(await capture.decoded()).toEqual([]);
  },
);

const SCHEMA = `
CREATE TABLE public.t (id int PRIMARY KEY, a text);
CREATE TABLE public.p (id int, k int) PARTITION BY LIST (k);
CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES IN (1);
CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES IN (2);
CREATE TYPE public.mood AS ENUM ('sad');
CREATE DOMAIN public.moods AS public.mood[];
CREATE TYPE public.person AS (name text, moods public.moods);
CREATE TABLE public.deep (id int PRIMARY KEY, people public.person[]);
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`;

test.for([14, 18] as const)(
  'version %i: each command says which tables it touched, and nothing else does (pain 23)',
  async (version) => {
    await using capture = await captured(version, SCHEMA);
    const { session } = capture.source;
    const said = async (sql: string): Promise<readonly string[]> => {
      await session.query(sql);
      return (await capture.decoded()).flatMap((one) => {
        if ('row' in one || one.message.event === 'failed') return ['unexpected'];
        const { event, objects, relations, dropped, rewritten } = one.message;
        return [
          [
            event,
            ...objects.map(({ tag }) => tag),
            ...relations.map(({ name }) => name),
            ...dropped.map(({ identity }) => `-${identity}`),
            ...(rewritten === undefined || rewritten === null ? [] : [`${rewritten.reason}`]),
          ].join(' '),
        ];
      });
    };
    // Without a table of the user's, or with rows only: nothing.
    expect(await said('CREATE TEMP TABLE gone (a int); CREATE INDEX ON gone (a)')).toEqual([]);
    expect(await said('ALTER TABLE gone ADD b int DEFAULT random(); DROP TABLE gone')).toEqual([]);
    expect(
      await said('SET default_transaction_read_only = on; CREATE TEMP TABLE ro (a int)'),
    ).toEqual([]);
    await session.query('SET default_transaction_read_only = off');
    expect(await said('CREATE MATERIALIZED VIEW public.mv AS SELECT * FROM public.t')).toEqual([]);
    expect(
      await said('REFRESH MATERIALIZED VIEW public.mv; DROP MATERIALIZED VIEW public.mv'),
    ).toEqual([]);
    expect(
      await said('CREATE FUNCTION public.g() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$'),
    ).toEqual([]);
    expect(await said('GRANT SELECT ON public.t TO public')).toEqual([]);
    // Harmless: by name of the object, with its table.
    expect(await said('CREATE INDEX i ON public.t (a)')).toEqual(['ddl_command_end CREATE INDEX']);
    expect(
      await said(
        `CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.touch()`,
      ),
    ).toEqual(['ddl_command_end CREATE TRIGGER']);
    expect(await said(`COMMENT ON COLUMN public.t.a IS 'x'`)).toEqual(['ddl_command_end COMMENT']);
    // Shapes.
    expect(await said('CREATE TABLE public.u AS SELECT 1 AS a WITH NO DATA')).toEqual([
      'ddl_command_end CREATE TABLE AS u',
    ]);
    expect(await said('ALTER TABLE public.t RENAME a TO c')).toEqual([
      'ddl_command_end ALTER TABLE t',
    ]);
    expect(await said('ALTER TABLE public.t ADD r float DEFAULT random()')).toEqual([
      'table_rewrite t 2',
      'ddl_command_end ALTER TABLE t',
    ]);
    expect(await said('ALTER TABLE public.p ADD q int')).toEqual([
      'ddl_command_end ALTER TABLE p p1 p2',
    ]);
    expect(await said('ALTER TABLE public.p DETACH PARTITION public.p1')).toEqual([
      'ddl_command_end ALTER TABLE p',
    ]);
    expect(await said('ALTER TABLE public.p ATTACH PARTITION public.p1 FOR VALUES IN (1)')).toEqual(
      ['ddl_command_end ALTER TABLE p p1'],
    );
    expect(await said(`ALTER TYPE public.mood ADD VALUE 'glad'`)).toEqual([
      'ddl_command_end ALTER TYPE deep',
    ]);
    expect(await said('ALTER TYPE public.person ADD ATTRIBUTE age int')).toEqual([
      'ddl_command_end ALTER TYPE deep',
    ]);
    expect(await said('ALTER SCHEMA public RENAME TO pub')).toHaveLength(1);
    expect(await said('DROP TABLE pub.p1, pub.u')).toEqual(['sql_drop -pub.p1 -pub.u']);
  },
);

test('production may do what it could before, whatever becomes of the capture (trap 9)', async () => {
  await using capture = await captured(18, SCHEMA);
  const { source, decoded } = capture;
  const { session } = source;
  const role = `${source.name}_r`;
  source.dropRoleAfterwards(role);
  await session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass';
    GRANT CREATE ON SCHEMA public TO ${role}`);
  await session.query(`SET ROLE ${role}; SET search_path = pg_temp, public`);
  await session.query('CREATE TABLE public.theirs (id int PRIMARY KEY)');
  await session.query(`RESET ROLE; SET search_path = ''`);
  // A role without any right on our schema is captured like everybody else.
  expect(summary(await decoded())).toEqual(['id']);

  // Settings that a role may have.
  await session.query(`SET plpgsql.extra_errors = 'all'; SET plpgsql.variable_conflict = 'error';
    SET quote_all_identifiers = on; SET standard_conforming_strings = off`);
  await session.query('ALTER TABLE public.theirs ADD b int');
  await session.query(`RESET ALL; SET search_path = ''`);
  expect(summary(await decoded())).toEqual(['id b']);

  // What we wait for is nobody's concern: the command outlives its own timeout rather than to fail.
  await using locker = await openSession(source.endpoint, { applicationName: 'test lock' });
  await locker.query('BEGIN; LOCK TABLE pg_catalog.pg_statistic_ext');
  await session.query('SET statement_timeout = 300');
  await session.query('ALTER TABLE public.theirs ADD c int');
  await session.query('SET statement_timeout = 0; SET lock_timeout = 200');
  await session.query('ALTER TABLE public.theirs ADD d int');
  await session.query('SET lock_timeout = 0');
  await locker.query('COMMIT');
  expect(summary(await decoded())).toEqual(['failed', 'failed']);

  // 17 has one more argument: whether to flush.
  const late = ', boolean';
  // The owner of the function may do nothing any more, not even say so.
  await session.query(
    `REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea${late}) FROM PUBLIC`,
  );
  await session.query(`ALTER FUNCTION understudy.understudy_${ID}_ddl() OWNER TO ${role}`);
  await session.query('ALTER TABLE public.theirs ADD e int; DROP TABLE public.deep');
  expect(await decoded()).toEqual([]);
  await session.query(
    `GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea${late}) TO PUBLIC`,
  );

  await session.query(`DROP FUNCTION understudy.understudy_${ID}_ddl() CASCADE`);
  expect(await readCapture(session, ID)).toBe('off');
  await session.query('ALTER TABLE public.theirs ADD f int');
  await session.query(`DROP OWNED BY ${role}`);
});

test('a command on hundreds of partitions is described in bounded pieces', async () => {
  await using capture = await captured(18, 'CREATE TABLE public.p (k int) PARTITION BY LIST (k)');
  const { session } = capture.source;
  await session.query(`DO $$ BEGIN FOR i IN 1..250 LOOP
      EXECUTE format('CREATE TABLE public.p%s PARTITION OF public.p FOR VALUES IN (%s)', i, i);
      END LOOP; END $$`);
  await capture.decoded();
  await session.query('ALTER TABLE public.p ADD a int');
  const relations = (await capture.decoded()).map((one) =>
    'message' in one && one.message.event !== 'failed' ? one.message.relations.length : -1,
  );
  expect(relations).toEqual([200, 51]);
  // One of many: only it is described.
  await session.query('ALTER TABLE public.p DETACH PARTITION public.p7');
  expect(await capture.decoded()).toHaveLength(1);
});

test('it is installed again over itself, seen, and removed without a trace', async () => {
  await using source = await createTestDatabase(17);
  const { session } = source;
  expect(await readCapture(session, ID)).toBe('off');
  await installCapture(session, ID);
  await installCapture(session, ID);
  await installCapture(session, 'ffffffff');
  expect(await readCapture(session, ID)).toBe('on');
  await session.query(`ALTER EVENT TRIGGER understudy_${ID}_drop DISABLE`);
  expect(await readCapture(session, ID)).toBe('off');
  expect(await removeCapture(session, ID)).toHaveLength(3);
  expect(await removeCapture(session, ID)).toEqual([]);
  expect(await countOurs(session)).toBe('4');
  await removeCapture(session, 'ffffffff');
  expect(await countOurs(session)).toBe('0');
  expect(await session.query(`SELECT FROM pg_namespace WHERE nspname = 'understudy'`)).toEqual([]);
});

async function countOurs(session: Session): Promise<string | null | undefined> {
  const [row] = await session.query(
    `SELECT (SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'understudy%')
          + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'understudy%') AS count`,
  );
  return row?.['count'];
}

test.for([14, 18] as const)(
  'version %i: whether it can be installed is tried, and leaves nothing (trap 10)',
  async (version) => {
    await using source = await createTestDatabase(version);
    expect(await tryCapture(source.session)).toBe(undefined);
    expect(await countOurs(source.session)).toBe('0');
    const role = `${source.name}_r`;
    source.dropRoleAfterwards(role);
    await source.session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'zqpass'`);
    await using plain = await openSession(
      { ...source.endpoint, user: role, password: 'zqpass' },
      { applicationName: 'test' },
    );
    expect(await tryCapture(plain)).toBe('42501');
  },
);
