import { expect, test } from 'vitest';

import { lsn } from '#src/core/lsn.ts';
import { openSession } from '#src/db/postgres/connection/session.ts';
import { openWireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { BACKEND } from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import { encodeStandbyStatus } from '#src/wire/postgres/frontend.ts';
import {
  decodeKeepalive,
  decodeXLogDataHeader,
  KEEPALIVE,
  XLOG_DATA,
  XLOG_DATA_HEADER_BYTES,
} from '#src/wire/postgres/replication-message.ts';
import { createTestDatabase, startTestServer, TEST_VERSIONS } from '#test/postgres.ts';

import { createLogicalSlot } from './create-slot.ts';
import { type ReplicationStream, startReplication, streamError } from './replication.ts';
import type { SlotBlocker } from './slot-blocker.ts';
import { dropSlot, identifySystem, readSlot } from './slot.ts';

const APPLICATION = { applicationName: 'understudy test' };
const DEADLINE_MS = 20_000;
const TABLE = 'CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)';

test.each(TEST_VERSIONS)(
  'on %i the exported snapshot and the stream together are every row once (pain 13)',
  async (version) => {
    await using db = await createTestDatabase(version, TABLE);
    // A name that needs quoting as an identifier and as a literal.
    await db.session.query(`CREATE PUBLICATION "Odd, ""p'\\ub" FOR TABLE public.t`);
    await using slot = await createLogicalSlot({
      ...APPLICATION,
      endpoint: db.endpoint,
      name: db.name,
      temporary: false,
      deadlineMs: DEADLINE_MS,
    });
    await db.session.query('INSERT INTO public.t VALUES (2)');
    await using reader = await openSession(db.endpoint, APPLICATION);
    const rows = await reader.transaction(async () => {
      await reader.query(`SET TRANSACTION SNAPSHOT '${slot.snapshotName}'`);
      return reader.query('SELECT id FROM public.t');
    }, 'ISOLATION LEVEL REPEATABLE READ');
    expect(rows).toEqual([{ id: '1' }]);

    const state = await readSlot(db.session, db.name);
    expect(state).toMatchObject({
      plugin: 'pgoutput',
      database: db.name,
      isTemporary: false,
      isActive: false,
      confirmedFlushLsn: slot.consistentLsn,
      walStatus: 'reserved',
      invalidation: undefined,
    });
    await using stream = await startReplication({
      ...APPLICATION,
      endpoint: db.endpoint,
      slot: db.name,
      publication: `Odd, "p'\\ub`,
      startLsn: slot.consistentLsn,
      binary: false,
    });
    expect(stream.walSenderTimeoutMs).toBe(60_000);
    expect(await changes(stream, 4)).toBe('BRIC');
  },
);

/** The tags of the first messages of a stream. */
async function changes(stream: ReplicationStream, count: number): Promise<string> {
  const walker = new FrameWalker();
  let seen = '';
  while (seen.length < count) {
    while (!walker.next()) walker.feed((await stream.connection.read())!);
    if (walker.tag === BACKEND.errorResponse) throw stream.connection.readError(walker);
    expect(walker.tag).toBe(BACKEND.copyData);
    const kind = walker.buffer.readUInt8(walker.start);
    if (kind === KEEPALIVE) {
      const { serverEndLsn } = decodeKeepalive(walker);
      const position = { written: serverEndLsn, flushed: lsn(0n), applied: lsn(0n) };
      await stream.connection.write(
        encodeStandbyStatus({ ...position, clockMs: Date.now(), replyRequested: false }),
      );
      continue;
    }
    expect(kind).toBe(XLOG_DATA);
    const { startLsn, serverClockMs } = decodeXLogDataHeader(walker);
    expect(Math.abs(serverClockMs - Date.now())).toBeLessThan(60_000);
    const tag = String.fromCharCode(walker.buffer.readUInt8(walker.start + XLOG_DATA_HEADER_BYTES));
    expect(startLsn > 0n).toBe(tag !== 'R');
    seen += tag;
  }
  return seen;
}

test.each([14, 18] as const)(
  'on %i a slot that is read is refused to others, dropped with our own reader, and lost afterwards',
  async (version) => {
    await using db = await createTestDatabase(version, TABLE);
    const start = { ...APPLICATION, endpoint: db.endpoint, slot: db.name, publication: 'p' };
    const from = { startLsn: lsn(0n), binary: true };
    await expect(startReplication({ ...start, ...from })).rejects.toMatchObject({
      code: 'SLOT_LOST',
    });
    await db.session.query(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
    await expect(startReplication({ ...start, ...from, systemId: '7' })).rejects.toMatchObject({
      code: 'SOURCE_CHANGED',
    });

    await using stream = await startReplication({ ...start, ...from });
    expect(await readSlot(db.session, db.name)).toMatchObject({
      isActive: true,
      activePid: stream.connection.processId,
    });
    await expect(startReplication({ ...start, ...from })).rejects.toMatchObject({
      code: 'SLOT_IN_USE',
    });
    expect(await dropSlot(db.session, db.name, DEADLINE_MS)).toBe(true);
    expect(await readSlot(db.session, db.name)).toBeUndefined();
    expect(await dropSlot(db.session, db.name, DEADLINE_MS)).toBe(false);
  },
);

test('a slot that somebody else reads is left to them', async () => {
  await using db = await createTestDatabase(18);
  await db.session.query(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  await using stream = await startReplication({
    applicationName: 'their consumer',
    endpoint: db.endpoint,
    slot: db.name,
    publication: 'p',
    startLsn: lsn(0n),
    binary: false,
  });
  await expect(dropSlot(db.session, db.name, 300)).rejects.toMatchObject({
    code: 'SLOT_IN_USE',
    message: `slot ${db.name} is read by server process ${stream.connection.processId}`,
  });
});

test('a missing publication shows at the first change (trap 14)', async () => {
  await using db = await createTestDatabase(14, TABLE);
  await db.session.query(`SELECT pg_create_logical_replication_slot('${db.name}', 'pgoutput')`);
  await db.session.query('INSERT INTO public.t VALUES (2)');
  await using stream = await startReplication({
    ...APPLICATION,
    endpoint: db.endpoint,
    slot: db.name,
    publication: 'nowhere',
    startLsn: lsn(0n),
    binary: false,
  });
  const failure: unknown = await changes(stream, 4).catch((error: unknown) => error);
  expect(streamError(failure, db.name)).toMatchObject({ code: 'PUBLICATION_CHANGED' });
});

// Trap 3: a slot waits for write transactions of other databases and for prepared ones. One server of
// the test's own, since the transactions would block the slots of every other test.
test('an older write transaction blocks a slot: it is named, waited for, and nothing is left behind (trap 3, complaint 5)', async () => {
  await using server = await startTestServer({ version: 15 });
  const options = {
    ...APPLICATION,
    endpoint: server.endpoint,
    name: 'blocked',
    temporary: false,
    deadlineMs: 600,
  };
  await using admin = await openSession(server.endpoint, APPLICATION);
  await admin.query('CREATE DATABASE elsewhere');
  const elsewhere = { ...server.endpoint, database: 'elsewhere' };
  await using writer = await openSession(elsewhere, APPLICATION);
  await writer.query('CREATE TABLE public.t (id int); BEGIN; INSERT INTO public.t VALUES (1)');

  const seen: SlotBlocker[] = [];
  const onBlocked = (blocker: SlotBlocker): unknown => seen.push(blocker);
  await expect(createLogicalSlot({ ...options, onBlocked })).rejects.toMatchObject({
    code: 'SLOT_BLOCKED',
    message: expect.stringContaining(
      `server process ${writer.processId} (understudy test, idle in transaction) in database elsewhere`,
    ),
  });
  expect(seen[0]).toMatchObject({ kind: 'session', name: String(writer.processId) });

  await writer.query(`PREPARE TRANSACTION 'its gid'`);
  await expect(createLogicalSlot(options)).rejects.toMatchObject({
    code: 'SLOT_BLOCKED',
    message: expect.stringContaining(`prepared transaction 'its gid'`),
  });
  expect(await readSlot(admin, 'blocked')).toBeUndefined();

  let isReleased = false;
  const release = async (): Promise<void> => {
    isReleased = true;
    await writer.query(`COMMIT PREPARED 'its gid'`);
  };
  await using slot = await createLogicalSlot({
    ...options,
    deadlineMs: DEADLINE_MS,
    onBlocked: () => void (isReleased || release()),
  });
  expect(slot.consistentLsn).toBeGreaterThan(0n);
});

test('a creation that hangs inside of the server is cancelled, by deadline or by signal', async () => {
  await using server = await startTestServer({ version: 18 });
  const options = {
    ...APPLICATION,
    endpoint: server.endpoint,
    name: 'hanging',
    temporary: false,
    deadlineMs: 1500,
  };
  await using admin = await openSession(server.endpoint, APPLICATION);
  await using writer = await openSession(server.endpoint, APPLICATION);
  await using first = await openSession(server.endpoint, APPLICATION);
  await admin.query('CREATE TABLE public.t (id int)');
  // The transaction that is waited for first ends while another one, begun later, stays.
  for (const [attempt, controller] of [undefined, new AbortController()].entries()) {
    await first.query('BEGIN; INSERT INTO public.t VALUES (1)');
    let step = 0;
    const onBlocked = (): void => {
      step += 1;
      if (step === 1) {
        void writer
          .query('BEGIN; INSERT INTO public.t VALUES (2)')
          .then(async () => first.query('COMMIT'));
      }
    };
    const creating = createLogicalSlot({
      ...options,
      deadlineMs: attempt === 0 ? options.deadlineMs : DEADLINE_MS,
      onBlocked,
      ...(controller ? { signal: controller.signal } : {}),
    });
    const outcome = creating.catch((error: unknown) => error);
    const walsenders = `SELECT count(*) AS n FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE a.backend_type = 'walsender' AND NOT l.granted`;
    await expect
      .poll(async () => admin.query(walsenders), { timeout: 10_000 })
      .toEqual([{ n: '1' }]);
    controller?.abort(new Error('interrupted'));
    const failure = await outcome;
    expect(failure).toMatchObject(controller?.signal.reason ?? { code: 'SLOT_BLOCKED' });
    expect(await readSlot(admin, 'hanging')).toBeUndefined();
    await writer.query('ROLLBACK');
  }
});

test('the limits of a server are told apart from its other refusals', async () => {
  await using server = await startTestServer({
    version: 16,
    settings: { max_replication_slots: '1', max_wal_senders: '1' },
  });
  const options = { ...APPLICATION, endpoint: server.endpoint, deadlineMs: DEADLINE_MS };
  await using admin = await openSession(server.endpoint, APPLICATION);
  await admin.query(`SELECT pg_create_logical_replication_slot('taken', 'pgoutput')`);
  await expect(
    createLogicalSlot({ ...options, name: 'second', temporary: true }),
  ).rejects.toMatchObject({ code: 'NO_FREE_SLOT', detail: { sqlstate: '53400' } });
  await expect(
    createLogicalSlot({ ...options, name: 'taken', temporary: true }),
  ).rejects.toMatchObject({ detail: { sqlstate: '42710' } });
  expect(await dropSlot(admin, 'taken', DEADLINE_MS)).toBe(true);

  await admin.query(`CREATE ROLE nobody LOGIN PASSWORD '${server.endpoint.password}'`);
  await expect(
    openWireConnection(
      { ...server.endpoint, user: 'nobody' },
      { ...APPLICATION, replication: true },
    ),
  ).rejects.toMatchObject({ code: 'PRIVILEGE_MISSING' });

  await using slot = await createLogicalSlot({ ...options, name: 'own', temporary: true });
  await expect(
    createLogicalSlot({ ...options, name: 'other', temporary: true }),
  ).rejects.toMatchObject({ code: 'NO_FREE_SLOT', detail: { sqlstate: '53300' } });
  expect(await identifySystem(slot.connection)).toMatchObject({ timeline: 1 });
});

test.each([14, 18] as const)(
  'a slot of %i whose WAL was taken away is lost (pain 19)',
  async (version) => {
    const settings = { max_slot_wal_keep_size: '1MB', min_wal_size: '32MB', max_wal_size: '32MB' };
    await using server = await startTestServer({ version, settings });
    await using admin = await openSession(server.endpoint, APPLICATION);
    await admin.query(`SELECT pg_create_logical_replication_slot('late', 'pgoutput')`);
    expect(await readSlot(admin, 'late')).toMatchObject({ invalidation: undefined });
    for (let i = 0; i < 4; i += 1) {
      await admin.query('CREATE TABLE public.t (); DROP TABLE public.t; SELECT pg_switch_wal()');
    }
    await admin.query('CHECKPOINT');
    expect(await readSlot(admin, 'late')).toMatchObject({
      walStatus: 'lost',
      invalidation: 'wal_removed',
    });
    const options = { ...APPLICATION, endpoint: server.endpoint, slot: 'late', publication: 'p' };
    await expect(
      startReplication({ ...options, startLsn: lsn(0n), binary: false }),
    ).rejects.toMatchObject({ code: 'SLOT_LOST' });
    expect(await dropSlot(admin, 'late', DEADLINE_MS)).toBe(true);
  },
);

test('a source with wal_level=replica is refused with its own code', async () => {
  await using server = await startTestServer({ version: 17, settings: { wal_level: 'replica' } });
  await expect(
    createLogicalSlot({
      ...APPLICATION,
      endpoint: server.endpoint,
      name: 'never',
      temporary: true,
      deadlineMs: DEADLINE_MS,
    }),
  ).rejects.toMatchObject({ code: 'WAL_LEVEL_TOO_LOW' });
});
