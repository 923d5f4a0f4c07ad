import { expect, test } from 'vitest';

import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

import { findSequences, readPositions } from './read-sequences.ts';
import { syncSequences } from './sequences.ts';

const SEQUENCES = `
CREATE SCHEMA s;
CREATE TABLE s.t (id serial, no int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE s.other (id serial);
CREATE SEQUENCE s."free; ""one""" START 100;
CREATE SEQUENCE s.down INCREMENT -5 START -1 MAXVALUE -1 MINVALUE -1000;
CREATE SEQUENCE s.untouched;
CREATE SEQUENCE s.large AS bigint`;

async function next(session: Session, sequence: string): Promise<string | null | undefined> {
  const [row] = await session.query('SELECT nextval($1::regclass) AS value', [sequence]);
  return row?.['value'];
}

test.each<[TestVersion, TestVersion]>([
  [14, 18],
  [18, 18],
])('sequences come along, %i to %i (trap 27)', async (from, to) => {
  await using a = await createTestDatabase(from, SEQUENCES);
  await using b = await createTestDatabase(to, SEQUENCES);
  await a.session.query('CREATE SEQUENCE s.only_here');
  const sync = async () =>
    syncSequences({ source: a.session, target: b.session, tables: new Set(['"s"."t"']) });
  expect(await sync()).toMatchObject({ moved: 0, unread: [] });

  await a.session.query(
    `SELECT nextval('s.t_id_seq'), nextval('s.t_id_seq'), nextval('s.other_id_seq'),
            nextval('s.down'), nextval('s.down'), setval('s."free; ""one"""', 500, false),
            setval('s.t_no_seq', 9), setval('s.large', 9223372036854775806)`,
  );
  expect(await sync()).toMatchObject({ moved: 5, unread: [] });
  expect(await sync()).toMatchObject({ moved: 0, unread: [] });
  expect(await next(b.session, 's.t_id_seq')).toBe('3');
  expect(await next(b.session, 's.t_no_seq')).toBe('10');
  expect(await next(b.session, 's.down')).toBe('-11');
  expect(await next(b.session, 's."free; ""one"""')).toBe('500');
  expect(await next(b.session, 's.large')).toBe('9223372036854775807');
  // Owned by a table that does not belong to the dataset.
  expect(await next(b.session, 's.other_id_seq')).toBe('1');

  // What is ahead stays there, whatever the direction.
  await a.session.query(
    `SELECT nextval('s.t_id_seq'), nextval('s.down'), nextval('s."free; ""one"""')`,
  );
  await b.session.query(`SELECT setval('s.t_id_seq', 50), setval('s.down', -500)`);
  expect(await sync()).toMatchObject({ moved: 0, unread: [] });
  expect(await next(b.session, 's.t_id_seq')).toBe('51');
  expect(await next(b.session, 's.down')).toBe('-505');
  expect(await next(b.session, 's."free; ""one"""')).toBe('501');
});

test.each<TestVersion>([14, 18])(
  'a sequence that is locked, dropped or hidden on %i keeps nobody waiting and holds no other one up (trap 27)',
  async (version) => {
    await using a = await createTestDatabase(version, SEQUENCES);
    await using b = await createTestDatabase(18, SEQUENCES);
    const role = a.name;
    a.dropRoleAfterwards(role);
    await a.session.query(
      `CREATE ROLE ${role} LOGIN PASSWORD 'zqpass'; GRANT USAGE ON SCHEMA s TO ${role};
       GRANT SELECT ON ALL SEQUENCES IN SCHEMA s TO ${role}; REVOKE ALL ON s.other_id_seq, s.large FROM ${role};
       SELECT nextval('s.t_id_seq'), nextval('s.t_no_seq'), nextval('s.down'), nextval('s.large')`,
    );
    const applicationName = 'understudy test';
    const settings = { applicationName, answerMsMax: 5_000 };
    await using source = await openSession(
      { ...a.endpoint, user: role, password: 'zqpass' },
      settings,
    );
    await using production = await openSession(a.endpoint, { applicationName });
    const sync = async () =>
      syncSequences({ source, target: b.session, tables: new Set(['"s"."t"']) });

    await production.query(
      'BEGIN; TRUNCATE s.t RESTART IDENTITY; DROP SEQUENCE s.untouched; ALTER SEQUENCE s.down CACHE 5',
    );
    const first = await sync();
    // That of the unselected table is no business of ours.
    expect(first.unread.map(({ name, isLocked }) => `${name} ${isLocked}`).toSorted()).toEqual([
      'down true',
      'large false',
      't_id_seq true',
      't_no_seq true',
      'untouched true',
    ]);
    expect(first.moved).toBe(0);

    // Locked, or dropped, only after it was looked for.
    await production.query('ROLLBACK');
    const found = await findSequences(source);
    await production.query('DROP SEQUENCE s.untouched');
    await production.query('BEGIN; TRUNCATE s.t RESTART IDENTITY');
    const read = await readPositions(source, found);
    const names = read.found.map(({ name }) => name);
    expect(names.toSorted()).toEqual(['down', 'free; "one"']);
    expect(read.unread.map(({ name, isLocked }) => `${name} ${isLocked}`).toSorted()).toEqual([
      'large false',
      'other_id_seq false',
      't_id_seq true',
      't_no_seq true',
      'untouched false',
    ]);

    // Nothing of the look stays behind: neither a lock nor the limit.
    await production.query('ROLLBACK');
    expect(await sync()).toMatchObject({ moved: 3, unread: [{ name: 'large', isLocked: false }] });
    expect(await source.query('SHOW lock_timeout')).toEqual([{ lock_timeout: '0' }]);
  },
);
