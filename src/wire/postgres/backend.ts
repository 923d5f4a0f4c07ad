import { OperatorError } from '#src/lib/errors.ts';

/**
 * Messages from a server, decoded from a frame's body, `buffer[start, end)`. All throw
 * PROTOCOL_VIOLATION for a body that is shorter than it claims.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

export const BACKEND = {
  authentication: 0x52, // 'R'
  backendKeyData: 0x4b, // 'K'
  bindComplete: 0x32, // '2'
  closeComplete: 0x33, // '3'
  commandComplete: 0x43, // 'C'
  copyBothResponse: 0x57, // 'W'
  copyData: 0x64, // 'd'
  copyDone: 0x63, // 'c'
  copyInResponse: 0x47, // 'G'
  copyOutResponse: 0x48, // 'H'
  dataRow: 0x44, // 'D'
  emptyQueryResponse: 0x49, // 'I'
  errorResponse: 0x45, // 'E'
  negotiateProtocolVersion: 0x76, // 'v'
  noData: 0x6e, // 'n'
  noticeResponse: 0x4e, // 'N'
  notificationResponse: 0x41, // 'A'
  parameterDescription: 0x74, // 't'
  parameterStatus: 0x53, // 'S'
  parseComplete: 0x31, // '1'
  portalSuspended: 0x73, // 's'
  readyForQuery: 0x5a, // 'Z'
  rowDescription: 0x54, // 'T'
} as const;

/** Where a frame's body lies. A FrameWalker is one, so that no object is made for it. */
export type Body = { readonly buffer: Buffer; readonly start: number; readonly end: number };

/**
 * What we keep of an ErrorResponse or NoticeResponse. DETAIL, CONTEXT and the internal query carry row
 * values and are never decoded (trap 21).
 */
export type ServerMessage = {
  /** Not localised: ERROR, FATAL, PANIC, WARNING, NOTICE, ... */
  readonly severity: string;
  /** The SQLSTATE. */
  readonly code: string;
  readonly message: string;
  readonly schema: string | undefined;
  readonly table: string | undefined;
  readonly column: string | undefined;
  readonly dataType: string | undefined;
  readonly constraint: string | undefined;
  /** The function of the server's source that reported it. */
  readonly routine: string | undefined;
  /** That there is a CONTEXT, and an internal query; what they say may hold row values. */
  readonly hasContext: boolean;
  readonly isOfInnerStatement: boolean;
};

/** https://www.postgresql.org/docs/current/protocol-error-fields.html */
export function decodeServerMessage(body: Body): ServerMessage {
  const reader = new BodyReader(body);
  const fields = new Map<string, string>();
  for (let field = reader.int8(); field !== 0; field = reader.int8()) {
    fields.set(String.fromCharCode(field), reader.cstring());
  }
  return {
    severity: fields.get('V') ?? fields.get('S') ?? 'ERROR',
    code: fields.get('C') ?? '',
    message: fields.get('M') ?? '',
    schema: fields.get('s'),
    table: fields.get('t'),
    column: fields.get('c'),
    dataType: fields.get('d'),
    constraint: fields.get('n'),
    routine: fields.get('R'),
    hasContext: fields.has('W'),
    isOfInnerStatement: fields.has('q'),
  };
}

/** The names of a result's columns. */
export function decodeRowDescription(body: Body): readonly string[] {
  const reader = new BodyReader(body);
  return Array.from({ length: reader.count() }, () => {
    const name = reader.cstring();
    reader.skip(18); // table, attribute, type, size, modifier, format
    return name;
  });
}

/** The values of a row whose format is text. */
export function decodeDataRow(body: Body): readonly (string | null)[] {
  const reader = new BodyReader(body);
  return Array.from({ length: reader.count() }, () => {
    const bytes = reader.int32();
    return bytes < 0 ? null : reader.text(bytes);
  });
}

/** Such as `COPY 1234`. */
export function decodeCommandComplete(body: Body): string {
  return new BodyReader(body).cstring();
}

/** The rows that a command tag counts, 0 for one without. */
export function rowsOfCommandTag(tag: string): number {
  const last = tag.slice(tag.lastIndexOf(' ') + 1);
  return /^\d+$/.test(last) ? Number(last) : 0;
}

export function decodeParameterStatus(body: Body): {
  readonly name: string;
  readonly value: string;
} {
  const reader = new BodyReader(body);
  return { name: reader.cstring(), value: reader.cstring() };
}

/** The key is 4 bytes in protocol 3.0, up to 256 in 3.2. */
export function decodeBackendKeyData(body: Body): {
  readonly processId: number;
  readonly secretKey: Buffer;
} {
  const reader = new BodyReader(body);
  const processId = reader.int32();
  return { processId, secretKey: Buffer.from(reader.rest()) };
}

/** I idle, T in a transaction, E in a failed one. */
export function decodeReadyForQuery(body: Body): 'I' | 'T' | 'E' {
  const status = String.fromCharCode(new BodyReader(body).int8());
  if (status === 'I' || status === 'T' || status === 'E') return status;
  throw violation('a transaction status that does not exist');
}

export type CopyResponse = {
  /** Whether the copy's overall format is binary. */
  readonly isBinary: boolean;
  readonly columns: number;
};

/** CopyInResponse, CopyOutResponse and CopyBothResponse have one form. */
export function decodeCopyResponse(body: Body): CopyResponse {
  const reader = new BodyReader(body);
  return { isBinary: reader.int8() === 1, columns: reader.count() };
}

export type Authentication =
  | { readonly kind: 'ok' }
  | { readonly kind: 'cleartext' }
  | { readonly kind: 'md5'; readonly salt: Buffer }
  | { readonly kind: 'sasl'; readonly mechanisms: readonly string[] }
  | { readonly kind: 'saslContinue'; readonly data: string }
  | { readonly kind: 'saslFinal'; readonly data: string }
  /** GSSAPI, SSPI, Kerberos, SCM credentials: not spoken here. */
  | { readonly kind: 'unsupported'; readonly method: number };

export function decodeAuthentication(body: Body): Authentication {
  const reader = new BodyReader(body);
  const method = reader.int32();
  switch (method) {
    case 0:
      return { kind: 'ok' };
    case 3:
      return { kind: 'cleartext' };
    case 5:
      return { kind: 'md5', salt: Buffer.from(reader.rest().subarray(0, 4)) };
    case 10: {
      const mechanisms: string[] = [];
      for (let name = reader.cstring(); name !== ''; name = reader.cstring()) mechanisms.push(name);
      return { kind: 'sasl', mechanisms };
    }
    case 11:
      return { kind: 'saslContinue', data: reader.rest().toString('utf8') };
    case 12:
      return { kind: 'saslFinal', data: reader.rest().toString('utf8') };
    default:
      return { kind: 'unsupported', method };
  }
}

/** Reads a body from front to back, never past its end. */
class BodyReader {
  readonly #buffer: Buffer;
  readonly #end: number;
  #at: number;

  constructor(body: Body) {
    this.#buffer = body.buffer;
    this.#at = body.start;
    this.#end = body.end;
  }

  int8(): number {
    return this.#buffer.readUInt8(this.#advance(1));
  }

  int32(): number {
    return this.#buffer.readInt32BE(this.#advance(4));
  }

  /** An int16 that counts what follows. */
  count(): number {
    return this.#buffer.readUInt16BE(this.#advance(2));
  }

  skip(bytes: number): void {
    this.#advance(bytes);
  }

  text(bytes: number): string {
    const at = this.#advance(bytes);
    return this.#buffer.toString('utf8', at, at + bytes);
  }

  cstring(): string {
    const zero = this.#buffer.indexOf(0, this.#at);
    if (zero < 0 || zero >= this.#end) throw violation('a string without an end');
    const at = this.#advance(zero + 1 - this.#at);
    return this.#buffer.toString('utf8', at, zero);
  }

  rest(): Buffer {
    return this.#buffer.subarray(this.#at, this.#end);
  }

  #advance(bytes: number): number {
    const at = this.#at;
    if (bytes < 0 || at + bytes > this.#end) throw violation('a message that is too short');
    this.#at = at + bytes;
    return at;
  }
}

function violation(what: string): OperatorError {
  return new OperatorError('PROTOCOL_VIOLATION', `the server sent ${what}`);
}
