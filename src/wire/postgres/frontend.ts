import type { Lsn } from '#src/core/lsn.ts';

import { MessageWriter } from './message-writer.ts';

/**
 * Messages to a server. The `write…` functions append to a writer (batches, hot paths); the others
 * return one message. https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

const PROTOCOL_VERSION = 0x0003_0000;
const SSL_REQUEST = 80_877_103;
const CANCEL_REQUEST = 80_877_102;

const TAG = {
  bind: 0x42, // 'B'
  close: 0x43, // 'C'
  copyData: 0x64, // 'd'
  copyDone: 0x63, // 'c'
  copyFail: 0x66, // 'f'
  describe: 0x44, // 'D'
  execute: 0x45, // 'E'
  parse: 0x50, // 'P'
  password: 0x70, // 'p'; SASL answers use it, too
  query: 0x51, // 'Q'
  sync: 0x53, // 'S'
  terminate: 0x58, // 'X'
} as const;

/** Milliseconds from the Unix epoch to Postgres's, 2000-01-01. */
export const POSTGRES_EPOCH_MS = 946_684_800_000;

function build(write: (writer: MessageWriter) => void): Buffer {
  const writer = new MessageWriter(256);
  write(writer);
  return writer.view();
}

export function startupMessage(parameters: Readonly<Record<string, string>>): Buffer {
  return build((writer) => {
    writer.beginUntagged().int32(PROTOCOL_VERSION);
    for (const [name, value] of Object.entries(parameters)) writer.cstring(name).cstring(value);
    writer.int8(0).end();
  });
}

export function sslRequest(): Buffer {
  return build((writer) => writer.beginUntagged().int32(SSL_REQUEST).end());
}

/** For a connection of its own. `secretKey` is BackendKeyData's, 4 bytes in protocol 3.0. */
export function cancelRequest(processId: number, secretKey: Buffer): Buffer {
  return build((writer) =>
    writer.beginUntagged().int32(CANCEL_REQUEST).int32(processId).bytes(secretKey).end(),
  );
}

export function passwordMessage(password: string): Buffer {
  return build((writer) => writer.begin(TAG.password).cstring(password).end());
}

export function saslInitialResponse(mechanism: string, response: string): Buffer {
  return build((writer) => writer.begin(TAG.password).cstring(mechanism).value(response).end());
}

export function saslResponse(response: string): Buffer {
  return build((writer) => writer.begin(TAG.password).text(response).end());
}

export function queryMessage(sql: string): Buffer {
  return build((writer) => writer.begin(TAG.query).cstring(sql).end());
}

export function copyDone(): Buffer {
  return build((writer) => writer.begin(TAG.copyDone).end());
}

/** Ends a COPY FROM STDIN with an error of the server's that quotes `reason`. */
export function copyFail(reason: string): Buffer {
  return build((writer) => writer.begin(TAG.copyFail).cstring(reason).end());
}

export function terminateMessage(): Buffer {
  return build((writer) => writer.begin(TAG.terminate).end());
}

/** The header of a CopyData frame; `bodyBytes` of content must follow. */
export function writeCopyDataHeader(writer: MessageWriter, bodyBytes: number): void {
  writer.int8(TAG.copyData).int32(4 + bodyBytes);
}

export function writeQuery(writer: MessageWriter, sql: string): void {
  writer.begin(TAG.query).cstring(sql).end();
}

/** Parse; an empty name is the unnamed statement, missing types are inferred. */
export function writeParse(
  writer: MessageWriter,
  statement: string,
  sql: string,
  parameterTypes: readonly number[] = [],
): void {
  writer.begin(TAG.parse).cstring(statement).cstring(sql).int16(parameterTypes.length);
  for (const oid of parameterTypes) writer.int32(oid);
  writer.end();
}

/** Bind to the unnamed portal with parameters as text, results as text. */
export function writeBindText(
  writer: MessageWriter,
  statement: string,
  parameters: readonly (string | null)[],
): void {
  beginBind(writer, { portal: '', statement, formats: [], parameters: parameters.length });
  for (const parameter of parameters) writer.value(parameter);
  endBind(writer);
}

/**
 * The first half of Bind. The caller appends `parameters` values, each an int32 length (-1 is NULL) and
 * its bytes, then calls `endBind`. `formats`: none is all text, one is for all, else one for each; 1 is binary.
 */
export function beginBind(
  writer: MessageWriter,
  bind: {
    readonly portal: string;
    readonly statement: string;
    readonly formats: readonly number[];
    readonly parameters: number;
  },
): void {
  writer.begin(TAG.bind).cstring(bind.portal).cstring(bind.statement).int16(bind.formats.length);
  for (const format of bind.formats) writer.int16(format);
  writer.int16(bind.parameters);
}

/** The second half of Bind: results as text. */
export function endBind(writer: MessageWriter): void {
  writer.int16(0).end();
}

export function writeDescribe(
  writer: MessageWriter,
  kind: 'statement' | 'portal',
  name: string,
): void {
  writer
    .begin(TAG.describe)
    .int8(kind === 'statement' ? 0x53 : 0x50)
    .cstring(name)
    .end();
}

/** Execute a portal to its end. */
export function writeExecute(writer: MessageWriter, portal = ''): void {
  writer.begin(TAG.execute).cstring(portal).int32(0).end();
}

export function writeClose(
  writer: MessageWriter,
  kind: 'statement' | 'portal',
  name: string,
): void {
  writer
    .begin(TAG.close)
    .int8(kind === 'statement' ? 0x53 : 0x50)
    .cstring(name)
    .end();
}

export function writeSync(writer: MessageWriter): void {
  writer.begin(TAG.sync).end();
}

/** Positions are those of the last byte + 1. `flushed` is what allows the server to discard WAL. */
export type StandbyStatus = {
  readonly written: Lsn;
  readonly flushed: Lsn;
  readonly applied: Lsn;
  /** Our clock, milliseconds since the Unix epoch. */
  readonly clockMs: number;
  /** Asks the server for a keepalive at once. */
  readonly replyRequested: boolean;
};

/** Standby status update, framed as CopyData. https://www.postgresql.org/docs/current/protocol-replication.html */
export function encodeStandbyStatus(status: StandbyStatus): Buffer {
  return build((writer) => {
    writer.begin(TAG.copyData).int8(0x72); // 'r'
    writer.int64(status.written).int64(status.flushed).int64(status.applied);
    writer.int64(BigInt(Math.round((status.clockMs - POSTGRES_EPOCH_MS) * 1000)));
    writer.int8(status.replyRequested ? 1 : 0).end();
  });
}
