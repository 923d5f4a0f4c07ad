import { expect, test } from 'vitest';

import { parseColumnExclusion, parseRowFilter } from '#src/core/row-filter.ts';
import { EVERYTHING, type Selection } from '#src/core/selection.ts';
import { readTables } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import { createPublication, readPublishedParts } from '#src/shadow/publication.ts';
import { createTestDatabase, type TestDatabase, type TestVersion } from '#test/postgres.ts';

import { PublicationWatch } from './publication-watch.ts';

const NAME = 'pub';

async function watched(
  version: TestVersion,
  selection: Selection = EVERYTHING,
): Promise<
  TestDatabase & {
    watch: Pick<PublicationWatch, 'check'>;
    kept: PublicationWatch;
    followed: readonly RelationRecord[];
  }
> {
  const db = await createTestDatabase(
    version,
    'CREATE TABLE public.a (id int PRIMARY KEY, v int); CREATE TABLE public.b (id int PRIMARY KEY, v int)',
  );
  const tables = await readTables(db.session, selection);
  const records = tables.map(({ oid, schema, name, key }): RelationRecord => ({
    schema,
    name,
    key,
    sourceOid: oid,
    state: 'copied',
    startLsn: undefined,
    isInLane: false,
    appliedLsn: undefined,
    columns: [],
    rows: 0,
    stop: undefined,
    isSpooled: false,
    spoolBytes: 0,
    published: '',
  }));
  const publication = await createPublication({ session: db.session, name: NAME, tables });
  const parts = await readPublishedParts(db.session, publication.oid);
  const followed = records.map((one) => ({ ...one, published: parts.get(one.sourceOid) ?? '' }));
  // Made for each look, as by a run that finds everything done.
  const watch = {
    check: async (session: Session) => new PublicationWatch(publication, followed).check(session),
  };
  return { ...db, watch, kept: new PublicationWatch(publication, followed), followed };
}

test.each<readonly [TestVersion, string, string]>([
  [14, 'lacks a table', 'ALTER PUBLICATION pub DROP TABLE public.b'],
  [
    18,
    'lacked a table for a moment',
    'BEGIN; ALTER PUBLICATION pub DROP TABLE public.b; ALTER PUBLICATION pub ADD TABLE public.b; COMMIT',
  ],
  [
    15,
    'lacked an operation for a while',
    `ALTER PUBLICATION pub SET (publish = 'insert'); ALTER PUBLICATION pub SET (publish = 'insert, update, delete, truncate')`,
  ],
  [14, 'lacks an operation', `ALTER PUBLICATION pub SET (publish = 'insert, update, delete')`],
  [17, 'goes by partition roots', 'ALTER PUBLICATION pub SET (publish_via_partition_root = true)'],
  [18, 'has a row filter', 'ALTER PUBLICATION pub SET TABLE public.a, public.b WHERE (id > 5)'],
  [16, 'has a column list', 'ALTER PUBLICATION pub SET TABLE public.a (id), public.b'],
  [15, 'was dropped', 'DROP PUBLICATION pub'],
  [
    18,
    'was made again',
    'DROP PUBLICATION pub; CREATE PUBLICATION pub FOR TABLE public.a, public.b',
  ],
])('on %i a publication that %s is not the one that we made', async (version, _, sql) => {
  await using db = await watched(version);
  await db.watch.check(db.session);
  await db.session.query(sql);
  await expect(db.watch.check(db.session)).rejects.toMatchObject({ code: 'PUBLICATION_CHANGED' });
});

test.each<TestVersion>([14, 18])(
  'on %i a table that was out of the publication while nobody ran is noticed at the first look (trap 14)',
  async (version) => {
    await using db = await watched(version);
    for (const sql of ['DROP TABLE', 'ADD TABLE']) {
      await db.session.query(`ALTER PUBLICATION pub ${sql} public.b`);
    }
    await expect(db.watch.check(db.session)).rejects.toMatchObject({ code: 'PUBLICATION_CHANGED' });
  },
);

test.each<TestVersion>([14, 18])(
  'on %i a table that is dropped, or one more, is no harm',
  async (version) => {
    await using db = await watched(version);
    await db.watch.check(db.session);
    await db.session.query(
      'DROP TABLE public.b; CREATE TABLE public.c (id int PRIMARY KEY); ALTER PUBLICATION pub ADD TABLE public.c',
    );
    await db.watch.check(db.session);
    await db.session.query('ALTER TABLE public.a RENAME TO d; ALTER TABLE public.d ADD w int');
    await expect(db.watch.check(db.session)).resolves.toBeUndefined();
  },
);

test.each<readonly [TestVersion, string, string]>([
  [15, 'lost its filter', 'ALTER PUBLICATION pub SET TABLE public.a, public.b (id)'],
  [
    18,
    'has another filter',
    'ALTER PUBLICATION pub SET TABLE public.a WHERE (id > 6), public.b (id)',
  ],
  [
    17,
    'has another column',
    'ALTER PUBLICATION pub SET TABLE public.a WHERE (id > 5), public.b (id, v)',
  ],
])(
  'on %i a publication with filters that %s is not the one that we made (trap 14)',
  async (version, _, sql) => {
    await using db = await watched(version, {
      ...EVERYTHING,
      where: [parseRowFilter('public.a: id > 5')],
      excludeColumns: [parseColumnExclusion('public.b.v')],
    });
    // Before any look, as if it had been altered while nobody ran.
    await db.session.query('ALTER TABLE public.a RENAME COLUMN v TO w');
    await db.watch.check(db.session);
    await db.session.query(sql);
    await expect(db.watch.check(db.session)).rejects.toMatchObject({ code: 'PUBLICATION_CHANGED' });
  },
);

test.each<TestVersion>([14, 18])(
  'on %i what becomes of a table that has stopped is no harm, until it follows again (trap 7)',
  async (version) => {
    await using db = await watched(version);
    const { session, kept, followed } = db;
    const readAll = async () => Promise.resolve(followed);
    await kept.check(session);
    // As the look at the schema does it, when production has dropped the key.
    await session.query('ALTER TABLE public.b DROP CONSTRAINT b_pkey');
    await session.query('ALTER PUBLICATION pub DROP TABLE public.b');
    await kept.check(session);
    const away = followed
      .filter(({ name }) => name === 'b')
      .map((one): RelationRecord => ({ ...one, state: 'stopped' }));
    await kept.keepUp(away, readAll);
    await session.query('ALTER TABLE public.b ADD PRIMARY KEY (id)');
    await session.query(
      'CREATE TABLE public.c (id int PRIMARY KEY); ALTER PUBLICATION pub ADD TABLE public.c',
    );
    await kept.check(session);
    // Whoever has let it follow again, without its changes.
    await kept.keepUp([], readAll);
    await expect(kept.check(session)).rejects.toMatchObject({ code: 'PUBLICATION_CHANGED' });
  },
);
