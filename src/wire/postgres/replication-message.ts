import { type Lsn, lsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';

import type { Body } from './backend.ts';
import { POSTGRES_EPOCH_MS } from './frontend.ts';

/** Inside CopyData of a replication stream. https://www.postgresql.org/docs/current/protocol-replication.html */
export const XLOG_DATA = 0x77; // 'w'
export const KEEPALIVE = 0x6b; // 'k'

/** Tag, start of the data, end of WAL, clock; the payload follows. */
export const XLOG_DATA_HEADER_BYTES = 25;
const KEEPALIVE_BYTES = 18;

export type XLogDataHeader = {
  /** Where the change lies in the WAL, 0 for Relation and Type; not a position to confirm or to resume from. */
  readonly startLsn: Lsn;
  /** Despite its name in the manual not the end of WAL: pgoutput repeats `startLsn` here. */
  readonly serverEndLsn: Lsn;
  readonly serverClockMs: number;
};

/** The header of an XLogData message; its payload is `buffer[start + XLOG_DATA_HEADER_BYTES, end)`. */
export function decodeXLogDataHeader(body: Body): XLogDataHeader {
  const { buffer, start } = body;
  checkBytes(body, XLOG_DATA_HEADER_BYTES);
  return {
    startLsn: lsn(buffer.readBigUInt64BE(start + 1)),
    serverEndLsn: lsn(buffer.readBigUInt64BE(start + 9)),
    serverClockMs: clockMs(buffer, start + 17),
  };
}

export type Keepalive = {
  /** Everything before this was sent: a transaction that commits at or before it has been received whole. */
  readonly serverEndLsn: Lsn;
  readonly serverClockMs: number;
  /** The server ends the connection soon unless it gets a status. */
  readonly replyRequested: boolean;
};

export function decodeKeepalive(body: Body): Keepalive {
  const { buffer, start } = body;
  checkBytes(body, KEEPALIVE_BYTES);
  return {
    serverEndLsn: lsn(buffer.readBigUInt64BE(start + 1)),
    serverClockMs: clockMs(buffer, start + 9),
    replyRequested: buffer.readUInt8(start + 17) !== 0,
  };
}

function clockMs(buffer: Buffer, at: number): number {
  return Number(buffer.readBigInt64BE(at) / 1000n) + POSTGRES_EPOCH_MS;
}

function checkBytes(body: Body, bytes: number): void {
  if (body.end - body.start >= bytes) return;
  throw new OperatorError(
    'PROTOCOL_VIOLATION',
    'the server sent a replication message that is too short',
  );
}
