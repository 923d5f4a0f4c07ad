import { expect, test } from 'vitest';

import { createTestDatabase } from '#test/postgres.ts';

import { openSession } from './session.ts';
import { openWireConnection } from './wire-connection.ts';

test.each([14, 18] as const)(
  'no timeout of a role on %i ends a connection of ours',
  async (version) => {
    // Trap 6; transaction_timeout came with 17.
    await using db = await createTestDatabase(version);
    const role = `role_${db.name}`;
    db.dropRoleAfterwards(role);
    await db.session.query(
      `CREATE ROLE ${role} LOGIN REPLICATION PASSWORD '${db.endpoint.password}'`,
    );
    const rows = await db.session.query(
      `SELECT name FROM pg_settings WHERE name LIKE '%\\_timeout' AND context = 'user'
        AND name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                     'idle_session_timeout', 'transaction_timeout') ORDER BY name`,
    );
    const names = rows.map(({ name }) => name ?? '');
    expect(names).toHaveLength(version >= 17 ? 5 : 4);
    for (const name of names) await db.session.query(`ALTER ROLE ${role} SET ${name} = '1s'`);
    const endpoint = { ...db.endpoint, user: role };
    const applicationName = 'understudy test';
    const expected = names.map(() => '0');
    await using session = await openSession(endpoint, { applicationName });
    await using wire = await openWireConnection(endpoint, { applicationName });
    await using walsender = await openWireConnection(endpoint, {
      applicationName,
      replication: true,
    });
    const sql = names.map((name) => `current_setting('${name}')`).join(', ');
    const [row] = await session.query(`SELECT ARRAY_TO_STRING(ARRAY[${sql}], ',') AS all`);
    expect(row?.['all']?.split(',')).toEqual(expected);
    for (const connection of [wire, walsender]) {
      const [result] = await connection.query(`SELECT ${sql}`);
      expect(result?.rows[0]).toEqual(expected);
    }
  },
);
