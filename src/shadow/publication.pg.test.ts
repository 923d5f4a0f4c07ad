import { expect, test } from 'vitest';

import { EVERYTHING } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import { createTestDatabase, TEST_VERSIONS } from '#test/postgres.ts';

import {
  createPublication,
  dropPublication,
  publishTables,
  readPublication,
  readPublishedTables,
} from './publication.ts';

const SCHEMA = `
  CREATE TABLE public."Odd "" name" (id int PRIMARY KEY);
  CREATE TABLE public.events (id int, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
  CREATE TABLE public.events_a PARTITION OF public.events FOR VALUES IN ('a');
  CREATE TABLE public.events_b PARTITION OF public.events FOR VALUES IN ('b');`;

test.each(TEST_VERSIONS)(
  'on %i a publication names the leaves, not the root, and only them (trap 18)',
  async (version) => {
    await using db = await createTestDatabase(version, SCHEMA);
    const { session, name } = db;
    const tables = await readTables(session, EVERYTHING);
    const publication = await createPublication({ session, name, tables });

    expect(await readPublishedTables(session, publication.oid)).toEqual(
      new Set(tables.map(({ oid }) => oid)),
    );
    const [row] = await session.query(
      `SELECT puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate AS every
       FROM pg_publication WHERE oid = $1`,
      [publication.oid],
    );
    expect(row).toEqual({ puballtables: 'f', pubviaroot: 'f', every: 't' });
    await session.query(`CREATE TABLE public.later (id int); UPDATE public.later SET id = 1`);
  },
);

test('a publication that was made again is another one, and is not dropped for ours (trap 14)', async () => {
  await using db = await createTestDatabase(18, SCHEMA);
  const { session, name } = db;
  const tables = await readTables(session, EVERYTHING);
  const ours = await createPublication({ session, name, tables });
  await expect(createPublication({ session, name, tables })).rejects.toMatchObject({
    code: 'PUBLICATION_CHANGED',
  });
  await session.query(`DROP PUBLICATION "${name}"; CREATE PUBLICATION "${name}"`);

  expect(await readPublication(session, name)).not.toBe(ours.oid);
  expect(await dropPublication(session, ours)).toBe(false);
  const theirs = await readPublication(session, name);
  expect(await dropPublication(session, { name, oid: theirs! })).toBe(true);
  expect(await readPublication(session, name)).toBeUndefined();
});

test('a server that could lose changes of a table that is published late is not asked to', async () => {
  await using db = await createTestDatabase(17, SCHEMA);
  const { session, name } = db;
  const tables = await readTables(session, EVERYTHING);
  const publication = await createPublication({ session, name, tables });
  await session.query('CREATE TABLE public.later (id int PRIMARY KEY)');
  const [later] = (await readTables(session, EVERYTHING)).filter((one) => one.name === 'later');
  const now = [...tables, ...(later === undefined ? [] : [later])];
  const older = { ...session, serverVersion: 170004 };
  // What it publishes already needs no change.
  await publishTables(older, publication, tables);
  await expect(publishTables(older, publication, now)).rejects.toMatchObject({
    code: 'PREFLIGHT_REFUSED',
    message: expect.stringMatching(
      /"later" cannot follow: the source is 17\.4, .* update it to 17\.5/,
    ),
    detail: { relation: later?.oid },
  });
  expect(await readPublishedTables(session, publication.oid)).toHaveProperty('size', tables.length);
  await publishTables(session, publication, now);
  expect(await readPublishedTables(session, publication.oid)).toHaveProperty('size', now.length);
});
