import { expect, test } from 'vitest';

import { BACKEND } from '#src/wire/postgres/backend.ts';
import { CopyRun } from '#src/wire/postgres/copy-run.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import {
  copyDone,
  writeBindText,
  writeCopyDataHeader,
  writeExecute,
  writeParse,
  writeSync,
} from '#src/wire/postgres/frontend.ts';
import { MessageWriter } from '#src/wire/postgres/message-writer.ts';
import { createTestDatabase, testServer } from '#test/postgres.ts';

import { sqlstateOf } from './server-error.ts';
import { openSession, type Session } from './session.ts';
import { openWireConnection, type WireConnection } from './wire-connection.ts';

const OPTIONS = { applicationName: 'understudy test' };

test.each([14, 18] as const)('statements run one by one and together on %i', async (version) => {
  await using connection = await openWireConnection(await testServer(version), OPTIONS);
  expect(connection.serverMajor).toBe(version);
  const results = await connection.query(`SELECT 1 AS a, NULL AS "B", 'ä' AS c; SHOW datestyle`);
  expect(results).toEqual([
    { columns: ['a', 'B', 'c'], rows: [['1', null, 'ä']], commandTag: 'SELECT 1' },
    { columns: ['DateStyle'], rows: [['ISO, MDY']], commandTag: 'SHOW' },
  ]);
  expect(await connection.query('')).toEqual([]);
  expect(connection.tryRead()).toBeUndefined();
});

test('an error is thrown by SQLSTATE, without row values, and the connection goes on', async () => {
  await using connection = await openWireConnection(await testServer(18), OPTIONS);
  const failure: unknown = await connection
    .query(`CREATE TEMP TABLE t (secret text PRIMARY KEY);
            INSERT INTO t VALUES ('hunter2'), ('hunter2')`)
    .catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'STATEMENT_FAILED' });
  expect(sqlstateOf(failure)).toBe('23505');
  expect(String(failure)).toContain('t_pkey');
  expect(String(failure)).not.toContain('(hunter2)');
  expect(await connection.query('SELECT 1')).toHaveLength(1);
});

test('a large result arrives whole', async () => {
  await using connection = await openWireConnection(await testServer(14), OPTIONS);
  const [result] = await connection.query(
    `SELECT g, repeat(chr(65 + g % 26), 1000) FROM generate_series(1, 20000) g
     UNION ALL SELECT 0, repeat('x', 30000000)`,
  );
  expect(result?.rows).toHaveLength(20_001);
  expect(result?.rows[51]?.[1]).toBe('A'.repeat(1000));
  expect(result?.rows.at(-1)?.[1]?.length).toBe(30_000_000);
});

test.each([14, 15, 16, 17, 18] as const)(
  'a walsender of %i answers statements under the pinned settings (trap 6)',
  async (version) => {
    await using db = await createTestDatabase(version);
    await db.session.query(`ALTER DATABASE ${db.name} SET datestyle = 'SQL, DMY'`);
    await using connection = await openWireConnection(db.endpoint, {
      ...OPTIONS,
      replication: true,
    });
    const [system] = await connection.query('IDENTIFY_SYSTEM');
    expect(system?.columns).toEqual(['systemid', 'timeline', 'xlogpos', 'dbname']);
    const [style] = await connection.query('SHOW datestyle');
    expect(style?.rows).toEqual([['ISO, MDY']]);
    const [walsender] = await db.session.query(
      `SELECT backend_type FROM pg_stat_activity WHERE pid = ${connection.processId}`,
    );
    expect(walsender).toEqual({ backend_type: 'walsender' });
  },
);

test('frames of a COPY pass from one server to another as they are', async () => {
  await using source = await createTestDatabase(
    14,
    `CREATE TABLE public.t AS SELECT g AS id, repeat(md5(g::text), 1 + g % 30) AS v FROM generate_series(1, 50000) g`,
  );
  await using target = await createTestDatabase(18, 'CREATE TABLE public.t (id int, v text)');
  await using reader = await openWireConnection(source.endpoint, OPTIONS);
  await using writer = await openWireConnection(target.endpoint, OPTIONS);

  expect(await reader.beginCopy('COPY public.t TO STDOUT')).toMatchObject({
    direction: 'out',
    columns: 2,
  });
  expect(await writer.beginCopy('COPY public.t FROM STDIN')).toMatchObject({ direction: 'in' });
  const run = new CopyRun();
  for (;;) {
    const chunk = (await reader.read())!;
    const end = run.scan(chunk);
    await writer.write(chunk.subarray(0, end));
    if (end === chunk.length) continue;
    reader.unread(chunk.subarray(end));
    break;
  }
  await writer.write(copyDone());
  const tags = [...(await reader.readUntilReady()), ...(await writer.readUntilReady())];
  expect(tags.map((result) => result.commandTag)).toEqual(['COPY 50000', 'COPY 50000']);
  const hash =
    'SELECT count(*) AS n, md5(string_agg(t::text, chr(10) ORDER BY id)) AS h FROM public.t t';
  expect(await target.session.query(hash)).toEqual(await source.session.query(hash));
});

test('a pipeline returns its results, and an error skips the rest of it', async () => {
  await using connection = await openWireConnection(await testServer(14), OPTIONS);
  const writer = new MessageWriter();
  for (const value of ['1', '0']) {
    writeParse(writer, '', 'SELECT 10 / $1::int AS q');
    writeBindText(writer, '', [value]);
    writeExecute(writer);
  }
  writeSync(writer);
  await connection.write(writer.take());
  await expect(connection.readUntilReady()).rejects.toMatchObject({
    detail: { sqlstate: '22012' },
  });
  writeBindText(writer.reset(), '', ['5']);
  writeExecute(writer);
  writeSync(writer);
  await connection.write(writer.take());
  await expect(connection.readUntilReady()).resolves.toHaveLength(1);
});

test('a server that does not read slows the writer down, instead of filling memory', async () => {
  await using db = await createTestDatabase(18, 'CREATE TABLE public.t (v text)');
  await using connection = await openWireConnection(db.endpoint, OPTIONS);
  await db.session.query('BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE');
  const blocked = connection.query('SELECT count(*) FROM public.t');
  // A server that is not in a copy reads copy data and throws it away.
  const writer = new MessageWriter();
  writeCopyDataHeader(writer, 1 << 20);
  const frame = Buffer.concat([writer.take(), Buffer.alloc(1 << 20)]);
  let isReleased = false;
  const writing = (async () => {
    for (let i = 0; i < 50; i += 1) await connection.write(frame);
    return isReleased;
  })();
  const waits = `SELECT count(*) AS n FROM pg_locks WHERE pid = ${connection.processId} AND NOT granted`;
  await expect.poll(async () => db.session.query(waits)).toEqual([{ n: '1' }]);
  isReleased = true;
  await db.session.query('COMMIT');
  expect(await writing).toBe(true);
  expect(await blocked).toHaveLength(1);
});

test('a read can be abandoned, and no byte is lost by it', async () => {
  await using connection = await openWireConnection(await testServer(18), OPTIONS);
  const controller = new AbortController();
  const abandoned = connection.read(controller.signal);
  controller.abort(new Error('enough'));
  await expect(abandoned).rejects.toThrow('enough');
  expect(await connection.query('SELECT 1')).toHaveLength(1);
});

test('raw reading sees the frames of an error, which becomes the same OperatorError', async () => {
  await using connection = await openWireConnection(await testServer(18), OPTIONS);
  const writer = new MessageWriter();
  writeParse(writer, '', 'SELECT nothing_here');
  writeSync(writer);
  await connection.write(writer.take());
  const walker = new FrameWalker();
  while (!walker.next()) walker.feed((await connection.read())!);
  expect(walker.tag).toBe(BACKEND.errorResponse);
  expect(connection.readError(walker)).toMatchObject({
    code: 'STATEMENT_FAILED',
    detail: { sqlstate: '42703' },
  });
});

test.each([14, 18] as const)('a statement is cancelled on %i', async (version) => {
  const server = await testServer(version);
  await using session = await openSession(server, OPTIONS);
  await using connection = await openWireConnection(server, OPTIONS);
  const sleeping = connection.query('SELECT pg_sleep(60)');
  const outcome = sleeping.catch((error: unknown) => error);
  await sleepBegins(session, connection);
  await connection.cancel();
  expect(await outcome).toMatchObject({ detail: { sqlstate: '57014' } });
  expect(await connection.query('SELECT 1')).toHaveLength(1);
});

/** A cancel that comes before the statement has begun would be without effect. */
async function sleepBegins(session: Session, connection: WireConnection): Promise<void> {
  const state = `SELECT wait_event FROM pg_stat_activity WHERE pid = ${connection.processId}`;
  await expect
    .poll(async () => session.query(state), { timeout: 20_000 })
    .toEqual([{ wait_event: 'PgSleep' }]);
}

test('a terminated connection is CONNECTION_LOST, and later calls say so, too', async () => {
  const server = await testServer(18);
  await using session = await openSession(server, OPTIONS);
  await using connection = await openWireConnection(server, OPTIONS);
  const sleeping = connection.query('SELECT pg_sleep(60)');
  const outcome = sleeping.catch((error: unknown) => error);
  await sleepBegins(session, connection);
  await session.query(`SELECT pg_terminate_backend(${connection.processId})`);
  expect(await outcome).toMatchObject({ code: 'CONNECTION_LOST' });
  expect(await connection.read()).toBeUndefined();
  await expect(connection.query('SELECT 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
});

test('a disposed connection is gone from the server', async () => {
  const server = await testServer(14);
  await using session = await openSession(server, OPTIONS);
  const connection = await openWireConnection(server, OPTIONS);
  // In the middle of a copy that nobody reads.
  await connection.beginCopy(
    'COPY (SELECT repeat(md5(g::text), 100) FROM generate_series(1, 100000) g) TO STDOUT',
  );
  await connection[Symbol.asyncDispose]();
  const gone = `SELECT count(*) AS n FROM pg_stat_activity WHERE pid = ${connection.processId}`;
  await expect.poll(async () => session.query(gone), { timeout: 10_000 }).toEqual([{ n: '0' }]);
});
