import { expect, test } from 'vitest';

import { openSession } from '#src/db/postgres/connection/session.ts';

import { createTestDatabase, TEST_VERSIONS, testServer } from './postgres.ts';

test.each(TEST_VERSIONS)(
  'a database of a real server %i leaves nothing behind',
  async (version) => {
    let name: string;
    {
      await using db = await createTestDatabase(version, 'CREATE TABLE public.kept (id int)');
      name = db.name;
      expect(Math.floor(db.session.serverVersion / 10_000)).toBe(version);
      await db.session.query(`SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`);
      await db.session.query(`SELECT pg_replication_origin_create('${name}')`);
      db.dropOriginAfterwards(name);
      await db.session.query(`CREATE ROLE ${name}`);
      db.dropRoleAfterwards(name);
      await db.session.query(
        `BEGIN; INSERT INTO public.kept VALUES (1); PREPARE TRANSACTION 'it''s'`,
      );
    }
    await using session = await openSession(await testServer(version), { applicationName: 'test' });
    const left = await session.query(
      `SELECT datname AS name FROM pg_database WHERE datname = $1
     UNION ALL SELECT slot_name FROM pg_replication_slots WHERE slot_name = $1
     UNION ALL SELECT roname FROM pg_replication_origin WHERE roname = $1
     UNION ALL SELECT rolname FROM pg_roles WHERE rolname = $1`,
      [name],
    );
    expect(left).toEqual([]);
  },
);
