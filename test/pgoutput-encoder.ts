/**
 * pgoutput messages, protocol 2, as a server writes them: the counterpart of `wire/postgres/pgoutput.ts`,
 * for tests. With `xid` a message is one inside a streamed block.
 * https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */

/** A column value of a tuple: text, NULL, or a long value that was not touched. */
export type TestValue = string | null | typeof UNCHANGED;
export const UNCHANGED = Symbol('unchanged');

export type TestColumn = {
  readonly name: string;
  readonly typeOid: number;
  readonly typeModifier?: number;
  readonly isKey?: boolean;
};

export function beginMessage(commitLsn: bigint, xid = 700): Buffer {
  return message('B', u64(commitLsn), u64(0n), u32(xid));
}

export function commitMessage(commitLsn: bigint, endLsn: bigint, time = 0n): Buffer {
  return message('C', u8(0), u64(commitLsn), u64(endLsn), u64(time));
}

export function relationMessage(
  relation: { oid: number; schema: string; name: string; columns: readonly TestColumn[] },
  xid?: number,
): Buffer {
  const columns = relation.columns.flatMap(
    ({ name, typeOid, typeModifier = -1, isKey = false }) => [
      u8(isKey ? 1 : 0),
      cstring(name),
      u32(typeOid),
      u32(typeModifier >>> 0),
    ],
  );
  return message(
    'R',
    prefix(xid),
    u32(relation.oid),
    cstring(relation.schema),
    cstring(relation.name),
    Buffer.from('d'),
    u16(relation.columns.length),
    ...columns,
  );
}

export function insertMessage(oid: number, after: Buffer, xid?: number): Buffer {
  return message('I', prefix(xid), u32(oid), Buffer.from('N'), after);
}

/** `kind`: K for the old key, O for the old row (REPLICA IDENTITY FULL). */
export function updateMessage(
  oid: number,
  rows: { kind?: 'K' | 'O'; before?: Buffer; after: Buffer },
  xid?: number,
): Buffer {
  const before = rows.before === undefined ? [] : [Buffer.from(rows.kind ?? 'K'), rows.before];
  return message('U', prefix(xid), u32(oid), ...before, Buffer.from('N'), rows.after);
}

export function deleteMessage(oid: number, kind: 'K' | 'O', before: Buffer, xid?: number): Buffer {
  return message('D', prefix(xid), u32(oid), Buffer.from(kind), before);
}

export function truncateMessage(oids: readonly number[], options = 0, xid?: number): Buffer {
  return message('T', prefix(xid), u32(oids.length), u8(options), ...oids.map(u32));
}

export function logicalMessage(
  logical: { isTransactional: boolean; prefix: string; content: string },
  xid?: number,
): Buffer {
  const content = Buffer.from(logical.content);
  return message(
    'M',
    prefix(xid),
    u8(logical.isTransactional ? 1 : 0),
    u64(0n),
    cstring(logical.prefix),
    u32(content.length),
    content,
  );
}

export function originMessage(name: string): Buffer {
  return message('O', u64(0n), cstring(name));
}

export function streamStartMessage(xid: number, isFirst: boolean): Buffer {
  return message('S', u32(xid), u8(isFirst ? 1 : 0));
}

export const streamStopMessage = (): Buffer => message('E');

export function streamCommitMessage(xid: number, commitLsn: bigint, endLsn: bigint): Buffer {
  return message('c', u32(xid), u8(0), u64(commitLsn), u64(endLsn), u64(0n));
}

export function streamAbortMessage(xid: number, subXid: number): Buffer {
  return message('A', u32(xid), u32(subXid));
}

/** A tuple; `kind` b sends the text's bytes as if they were binary. */
export function tuple(values: readonly TestValue[], kind: 't' | 'b' = 't'): Buffer {
  return tupleOfBytes(
    values.map((value) => (typeof value === 'string' ? Buffer.from(value) : value)),
    kind,
  );
}

export function tupleOfBytes(
  values: readonly (Buffer | null | typeof UNCHANGED)[],
  kind: 't' | 'b',
): Buffer {
  const columns = values.map((value) => {
    if (value === null) return Buffer.from('n');
    if (value === UNCHANGED) return Buffer.from('u');
    return Buffer.concat([Buffer.from(kind), u32(value.length), value]);
  });
  return Buffer.concat([u16(values.length), ...columns]);
}

function message(tag: string, ...parts: readonly Buffer[]): Buffer {
  return Buffer.concat([Buffer.from(tag), ...parts]);
}

function prefix(xid: number | undefined): Buffer {
  return xid === undefined ? Buffer.alloc(0) : u32(xid);
}

function cstring(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}

function u8(value: number): Buffer {
  return Buffer.from([value]);
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}
