import { afterAll, expect, test, vi } from 'vitest';

import { type Lsn, lsn } from '#src/core/lsn.ts';
import { openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { readRelation, readRelationOid, readRowTuples, TAG } from '#src/wire/postgres/pgoutput.ts';
import { createTestDatabase, TEST_VERSIONS } from '#test/postgres.ts';
import { CREATED, createScratch, messagesOf, openTestSpool, readAll } from '#test/spool.ts';

import type { SpoolBlock } from './format.ts';

vi.setConfig({ testTimeout: 60_000 });

const scratch = await createScratch();
afterAll(() => scratch[Symbol.asyncDispose]());

const ROWS = 400;

async function fill(session: Session, table: string, from: number): Promise<void> {
  await session.query(
    `INSERT INTO ${table} (id, filler)
     SELECT i, repeat('x', 300) FROM generate_series(${from + 1}, ${from + ROWS}) i`,
  );
}

/**
 * Two transactions that are streamed, between them small ones and changes of shape, committed and rolled
 * back: whatever makes the source send its Relations again, or not again.
 */
async function work(one: Session, two: Session, small: Session): Promise<void> {
  await small.query(`INSERT INTO public.quiet (id) VALUES (1)`);
  await one.query('BEGIN');
  await two.query('BEGIN');
  await fill(one, 'public.a', 0);
  await small.query('ALTER TABLE public.quiet ADD COLUMN more integer');
  await small.query(`INSERT INTO public.quiet (id, more) VALUES (2, 2)`);
  await fill(two, 'public.b', 0);
  await one.query('SAVEPOINT s; ALTER TABLE public.a ADD COLUMN rolled_back integer');
  await fill(one, 'public.a', 1000);
  await one.query('ROLLBACK TO s');
  await fill(one, 'public.a', 2000);
  await two.query('SAVEPOINT s; ALTER TABLE public.b ADD COLUMN kept integer; RELEASE s');
  await fill(two, 'public.b', 1000);
  await one.query('SAVEPOINT s');
  await fill(one, 'public.c', 0);
  await one.query('ROLLBACK TO s');
  await one.query('COMMIT');
  await fill(small, 'public.a', 3000);
  await small.query(
    `INSERT INTO public.a (id) VALUES (5001); INSERT INTO public.c (id) VALUES (5001)`,
  );
  await two.query('COMMIT');
  for (let id = 6000; id < 6010; id++) {
    await small.query(`INSERT INTO public.b (id, kept) VALUES (${id}, 1)`);
    await small.query(`INSERT INTO public.a (id) VALUES (${id})`);
  }
  await two.query('BEGIN');
  await fill(two, 'public.c', 6000);
  await two.query('ROLLBACK');
  await small.query(`INSERT INTO public.quiet (id, more) VALUES (3, 3)`);
}

/** Reads as an applier does; every row must have the columns of the Relation that holds for it. */
class ShapeCheck {
  readonly commits: bigint[] = [];
  rows = 0;
  readonly #columns = new Map<number, number>();
  readonly #streams = new Map<number, Map<number, number>>();
  #xid: number | undefined;

  block(block: SpoolBlock): void {
    for (const message of messagesOf(block)) this.#message(message);
  }

  #message(bytes: Buffer): void {
    const tag = bytes[0]!;
    if (tag === TAG.streamStart) this.#startStream(bytes.readUInt32BE(1), bytes[5] === 1);
    else if (tag === TAG.streamStop) this.#xid = undefined;
    else if (tag === TAG.commit) this.commits.push(bytes.readBigUInt64BE(10));
    else if (tag === TAG.streamCommit) this.commits.push(bytes.readBigUInt64BE(14));
    else if (tag === TAG.relation || tag === TAG.insert) this.#content(tag, bytes);
  }

  #startStream(xid: number, isFirst: boolean): void {
    if (isFirst) this.#streams.set(xid, new Map());
    this.#xid = xid;
  }

  #content(tag: number, bytes: Buffer): void {
    const isStreamed = this.#xid !== undefined;
    const columns = isStreamed ? this.#streams.get(this.#xid ?? 0) : this.#columns;
    if (columns === undefined) return; // Void: reading began behind its start.
    const body = isStreamed ? 5 : 1;
    if (tag === TAG.relation) {
      const relation = readRelation(bytes, body);
      columns.set(relation.oid, relation.columns.length);
      return;
    }
    const { after } = readRowTuples(tag, bytes, body);
    const expected = columns.get(readRelationOid(bytes, body));
    const found = bytes.readUInt16BE(after);
    if (found !== expected) throw new Error(`a row of ${found} columns is read as ${expected}`);
    this.rows += 1;
  }
}

test.each(TEST_VERSIONS)(
  'what a server %i streams is read right from wherever an applier may start',
  async (version) => {
    await using db = await createTestDatabase(
      version,
      `CREATE TABLE public.a (id integer PRIMARY KEY, filler text);
       CREATE TABLE public.b (id integer PRIMARY KEY, filler text);
       CREATE TABLE public.c (id integer PRIMARY KEY, filler text);
       CREATE TABLE public.quiet (id integer PRIMARY KEY);
       CREATE PUBLICATION everything FOR TABLE public.a, public.b, public.c, public.quiet`,
    );
    const options = { applicationName: 'test' };
    await using one = await openSession(db.endpoint, options);
    await using two = await openSession(db.endpoint, options);
    await db.session.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [db.name]);
    await work(one, two, db.session);
    await one.query(`SET logical_decoding_work_mem = '64kB'`);
    const sent = await one.query(
      `SELECT encode(data, 'hex') AS data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
         'proto_version', '2', 'publication_names', 'everything', 'streaming', 'on')`,
      [db.name],
    );
    const messages = sent.map((message) => Buffer.from(message['data'] ?? '', 'hex'));
    const tags = new Set(messages.map((message) => message.toString('latin1', 0, 1)));
    expect(['B', 'C', 'S', 'E', 'c', 'A'].filter((tag) => !tags.has(tag))).toEqual([]);

    const sizes = { segmentBytes: 4000, blockBytes: 2000 };
    await using spool = await openTestSpool(scratch.newDirectory(), sizes);
    for (const message of messages) spool.writer.append(message, 0, message.length, 0n);
    await spool.writer.sync();
    const whole = new ShapeCheck();
    for (const block of await readAll(spool, CREATED)) whole.block(block);
    expect(spool.durableLsn).toBe(whole.commits.at(-1));
    expect(whole.rows).toBe(messages.filter((message) => message[0] === TAG.insert).length);

    const starts = new Set<number>();
    for (const applied of whole.commits.map((commit): Lsn => lsn(commit))) {
      const blocks = await readAll(spool, applied);
      const part = new ShapeCheck();
      for (const block of blocks) part.block(block);
      const missing = whole.commits.filter(
        (commit) => commit > applied && !part.commits.includes(commit),
      );
      expect(missing).toEqual([]);
      starts.add(blocks[0]?.position.segment ?? 0);
    }
    expect(starts.size).toBeGreaterThan(2);
  },
);
