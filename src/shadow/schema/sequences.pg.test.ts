import { expect, test } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { createTestDatabase, type TestVersion } from '#test/postgres.ts';

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
  expect(await sync()).toBe(0);

  await a.session.query(
    `SELECT nextval('s.t_id_seq'), nextval('s.t_id_seq'), nextval('s.other_id_seq'),
            nextval('s.down'), nextval('s.down'), setval('s."free; ""one"""', 500, false),
            setval('s.t_no_seq', 9), setval('s.large', 9223372036854775806)`,
  );
  expect(await sync()).toBe(5);
  expect(await sync()).toBe(0);
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
  expect(await sync()).toBe(0);
  expect(await next(b.session, 's.t_id_seq')).toBe('51');
  expect(await next(b.session, 's.down')).toBe('-505');
  expect(await next(b.session, 's."free; ""one"""')).toBe('501');
});
