import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { applyFixes, check, named } from '#test/check.ts';
import { followPair } from '#test/follower.ts';
import { createTestDatabase, TEST_VERSIONS } from '#test/postgres.ts';

/** One table for each refusal that a table can cause. */
const BAD_TABLES = `
  CREATE SCHEMA shop;
  CREATE TABLE shop.good (id int PRIMARY KEY);
  CREATE TABLE shop.keyless (a int);
  CREATE TABLE shop."it's ""odd""" (a int);
  CREATE TABLE shop.unique_only (a int, b int NOT NULL);
  CREATE UNIQUE INDEX unique_only_b ON shop.unique_only (b) INCLUDE (a);
  CREATE TABLE shop.deferred (id int PRIMARY KEY DEFERRABLE);
  CREATE TABLE shop.generated (a int NOT NULL, id int GENERATED ALWAYS AS (a) STORED PRIMARY KEY);
  CREATE TABLE shop.generated_full (id int NOT NULL, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
  CREATE UNIQUE INDEX generated_full_id ON shop.generated_full (id);
  ALTER TABLE shop.generated_full REPLICA IDENTITY FULL;
  CREATE TABLE shop.nothing (id int PRIMARY KEY);
  ALTER TABLE shop.nothing REPLICA IDENTITY NOTHING;
  CREATE TABLE shop.whole (a int);
  ALTER TABLE shop.whole REPLICA IDENTITY FULL;
  CREATE TABLE shop.mother (id int PRIMARY KEY);
  CREATE TABLE shop.child (PRIMARY KEY (id)) INHERITS (shop.mother);
  CREATE UNLOGGED TABLE shop.unlogged (id int PRIMARY KEY);
  CREATE ACCESS METHOD odd_heap TYPE TABLE HANDLER heap_tableam_handler;
  CREATE TABLE shop.odd_stored (id int PRIMARY KEY) USING odd_heap;
  CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
  CREATE TABLE shop.part_here PARTITION OF shop.parts FOR VALUES FROM (0) TO (10);
  CREATE FOREIGN DATA WRAPPER nowhere;
  CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
  CREATE TABLE shop.mixed (id int) PARTITION BY RANGE (id);
  CREATE FOREIGN TABLE shop.part_away PARTITION OF shop.mixed FOR VALUES FROM (0) TO (10) SERVER nowhere;`;

test.each(TEST_VERSIONS)(
  'on %i every table that cannot be followed is refused, and each fix mends it (traps 7 and 18)',
  async (version) => {
    await using source = await createTestDatabase(version, BAD_TABLES);
    await using target = await createTestDatabase(version);
    const sides = { source: source.endpoint, target: target.endpoint };
    const before = await check(sides);
    expect(named(before)).toEqual([
      'access-method table "shop"."odd_stored"',
      'deferrable-key table "shop"."deferred"',
      'foreign-partition table "shop"."part_away"',
      'generated-key table "shop"."generated"',
      ...(version < 18 ? [] : ['generated-key table "shop"."generated_full"']),
      'identity-nothing table "shop"."nothing"',
      'no-key table "shop"."it\'s ""odd"""',
      'no-key table "shop"."keyless"',
      'no-key table "shop"."unique_only"',
    ]);
    expect(named(before, 'warn')).toEqual(['unlogged-table table "shop"."unlogged"']);
    expect(named(before, 'info')).toContain('identity-full-without-key table "shop"."whole"');
    expect(before.isRefused).toBe(true);

    // A copy alone names no row, so it needs no key.
    expect(named(await check(sides, { isFollowed: false })).join()).not.toMatch(/key|identity/);

    const admin = { source: source.session, target: target.session };
    const selection = await applyFixes(before, admin);
    const after = await check(sides, { selection });
    expect(named(after)).toEqual([]);
    expect(after.isRefused).toBe(false);
    // REPLICA IDENTITY FULL is the last resort, which 18 does not allow beside generated columns.
    expect(after.tables.map(({ name }) => name)).toEqual([
      'child',
      'deferred',
      ...(version < 18 ? ['generated'] : []),
      'generated_full',
      'good',
      `it's "odd"`,
      'keyless',
      'mother',
      'nothing',
      'part_here',
      'unique_only',
      'whole',
    ]);
  },
);

test('a child without a parent that it inherits from is refused until that is selected too', async () => {
  await using source = await createTestDatabase(18, BAD_TABLES);
  await using target = await createTestDatabase(18);
  const sides = { source: source.endpoint, target: target.endpoint };
  const selection = { ...EVERYTHING, tables: ['shop.child'] };
  const before = await check(sides, { selection });
  expect(named(before)).toEqual(['inheritance table "shop"."child"']);
  const admin = { source: source.session, target: target.session };
  const fixed = await applyFixes(before, admin, selection);
  expect(named(await check(sides, { selection: fixed }))).toEqual([]);
});

test('a partition without its root is refused until the root is selected too', async () => {
  await using source = await createTestDatabase(18, BAD_TABLES);
  await using target = await createTestDatabase(18);
  const sides = { source: source.endpoint, target: target.endpoint };
  const selection = { ...EVERYTHING, tables: ['shop.part_here'] };
  const before = await check(sides, { selection });
  expect(named(before)).toEqual(['partition-without-root table "shop"."part_here"']);
  const admin = { source: source.session, target: target.session };
  const fixed = await applyFixes(before, admin, selection);
  expect(named(await check(sides, { selection: fixed }))).toEqual([]);
});

test('what is not carried over, or may differ, is said and does not refuse', async () => {
  await using source = await createTestDatabase(
    16,
    `CREATE TABLE public.t (id int PRIMARY KEY, about regclass, many oid[]);
     CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
     CREATE FUNCTION public.e() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
     CREATE TRIGGER sometimes BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
     CREATE TRIGGER always BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
     ALTER TABLE public.t ENABLE ALWAYS TRIGGER always;
     CREATE RULE also AS ON INSERT TO public.t DO ALSO NOTHING;
     CREATE RULE never AS ON DELETE TO public.t DO ALSO NOTHING;
     ALTER TABLE public.t ENABLE ALWAYS RULE never;
     CREATE TABLE public.apart (id int PRIMARY KEY);
     ALTER TABLE public.t ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES public.apart;
     CREATE MATERIALIZED VIEW public.mv AS SELECT 1 AS one;
     CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION public.e();
     CREATE PUBLICATION theirs;
     CREATE SUBSCRIPTION ours CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false);
     CREATE FOREIGN DATA WRAPPER nowhere;
     CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
     CREATE FOREIGN TABLE public.away (id int) SERVER nowhere;
     GRANT SELECT ON public.t TO pg_monitor;
     SELECT lo_create(0);`,
  );
  await using target = await createTestDatabase(
    17,
    `CREATE FUNCTION public.other() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
     CREATE EVENT TRIGGER theirs ON ddl_command_end EXECUTE FUNCTION public.other();`,
  );
  const result = await check(
    { source: source.endpoint, target: target.endpoint },
    { selection: { ...EVERYTHING, exclude: ['apart'] } },
  );
  expect(named(result)).toEqual([]);
  expect(named(result, 'warn')).toEqual([
    'foreign-table table "public"."away"',
    `large-objects database "${source.name}"`,
    'oid-column column "public"."t"."about"',
    'oid-column column "public"."t"."many"',
    'target-event-trigger event trigger "theirs"',
  ]);
  expect(named(result, 'info')).toEqual([
    'always-rule rule "never" of table "public"."t"',
    'always-trigger trigger "always" of table "public"."t"',
    'event-trigger-not-carried event trigger on_ddl',
    'foreign-key-outside foreign key "fk" of table "public"."t"',
    'materialized-view materialized view "public"."mv"',
    'publication-not-carried publication theirs',
    'source-locks selection',
    'subscription-not-carried subscription ours',
    'table-rule rule "also" of table "public"."t"',
    'target-disk server',
  ]);
});

test('an empty database is worth a warning', async () => {
  await using source = await createTestDatabase(14);
  await using target = await createTestDatabase(14);
  const result = await check({ source: source.endpoint, target: target.endpoint });
  expect(named(result, 'warn')).toEqual(['no-tables selection']);
  expect(result.isRefused).toBe(false);
});

test('a shadow that exists is not kept from going on by a table that it does not follow', async () => {
  // One table without a key, made by production, and no restart, verify or resume was possible any more.
  await using pair = await followPair(
    [17, 18],
    `CREATE TABLE public.steady (id int PRIMARY KEY, v text);
     CREATE TABLE public.unkeyed (id int PRIMARY KEY, v text)`,
  );
  await pair.stop();
  const { source, target } = pair;
  const sides = { source: source.endpoint, target: target.endpoint };
  await source.session.query(`CREATE TABLE public.scratch AS SELECT 1 AS a;
    CREATE ACCESS METHOD odd_heap TYPE TABLE HANDLER heap_tableam_handler;
    CREATE TABLE public.odd (id int PRIMARY KEY) USING odd_heap;
    ALTER TABLE public.unkeyed DROP CONSTRAINT unkeyed_pkey`);
  const unsuitable = [
    'access-method table "public"."odd"',
    'no-key table "public"."scratch"',
    'no-key table "public"."unkeyed"',
  ];
  // Nothing is on the target yet: the tables would be put on record anew.
  expect(named(await check(sides))).toEqual(unsuitable);
  await target.session.query(
    `INSERT INTO understudy.step (shadow_id, step, stage, kind, object, statement)
     VALUES ($1, 1, 'index', 'INDEX', 'test', 'SELECT 1')`,
    [pair.shadow.shadowId],
  );
  const resumed = await check(sides);
  expect(named(resumed)).toEqual(unsuitable.slice(2));
  expect(named(resumed, 'warn')).toEqual(unsuitable.slice(0, 2));
  expect(resumed.findings.find(({ object }) => object.includes('scratch'))).toMatchObject({
    cause: expect.stringContaining('the shadow goes on, and does not follow it'),
    fix: { runOn: 'source' },
  });
  await target.session.query(
    `UPDATE understudy.relation SET state = 'stopped' WHERE table_name = 'unkeyed'`,
  );
  expect(await check(sides)).toMatchObject({ isRefused: false });
});
