import { expect, test } from 'vitest';

import { readLogicalMessage, TAG } from '#src/wire/postgres/pgoutput.ts';
import { createTestDatabase } from '#test/postgres.ts';

import { DDL_PREFIX } from './capture-sql.ts';
import { installCapture } from './capture.ts';
import { parseDdlMessage } from './ddl-message.ts';
import { sendLook } from './look-message.ts';

const ID = '0a1b2c3d';

test('names arrive as they are from a database that is not in UTF8', async () => {
  await using source = await createTestDatabase(
    18,
    'CREATE TABLE public."größe" (id int PRIMARY KEY)',
    { encoding: 'LATIN1' },
  );
  const { session, name } = source;
  await session.query(`CREATE PUBLICATION everything`);
  await installCapture(session, ID);
  await session.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
  await session.query('ALTER TABLE public."größe" ADD "ä" int');
  const messages = async () => {
    const rows = await session.query(
      `SELECT encode(data, 'hex') AS data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
         'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')`,
      [name],
    );
    return rows
      .map((row) => Buffer.from(row['data'] ?? '', 'hex'))
      .filter((bytes) => bytes[0] === TAG.message)
      .map((bytes) => readLogicalMessage(bytes, 1))
      .filter(({ prefix, content }) => prefix === DDL_PREFIX && content !== '')
      .flatMap(({ content }) => parseDdlMessage(content, ID) ?? []);
  };
  const [told] = await messages();
  const shape = told?.event === 'failed' ? undefined : told?.relations[0];
  expect(shape?.name).toBe('größe');
  expect(shape?.columns.map((column) => column.name)).toEqual(['id', 'ä']);
  await sendLook(session, ID, [{ kind: 'changed', shape: shape!, isRewritten: false }]);
  const [seen] = await messages();
  expect(seen?.event === 'failed' ? undefined : seen?.relations[0]).toEqual(shape);
});
