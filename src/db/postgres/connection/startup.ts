import { createHash, pbkdf2, randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { promisify } from 'node:util';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { assertNever } from '#src/lib/assert.ts';
import { OperatorError } from '#src/lib/errors.ts';
import {
  BACKEND,
  type Body,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeParameterStatus,
  decodeServerMessage,
} from '#src/wire/postgres/backend.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';
import {
  passwordMessage,
  saslInitialResponse,
  saslResponse,
  startupMessage,
} from '#src/wire/postgres/frontend.ts';
import {
  type ChannelBinding,
  decodeServerFirst,
  isServerProven,
  saslPrep,
  scramClientFinal,
  scramClientFirst,
} from '#src/wire/postgres/scram.ts';

import type { ByteChannel } from './byte-channel.ts';
import { refusalError } from './server-error.ts';
import { PINNED_SETTINGS, startupOptions } from './settings.ts';
import { certificateHash } from './tls.ts';

/** Who is not authenticated yet has no business with long messages. */
const STARTUP_FRAME_BYTES_MAX = 64 * 1024;

const deriveKey = promisify(pbkdf2);

export type Backend = {
  readonly processId: number;
  readonly secretKey: Buffer;
  readonly parameters: Map<string, string>;
};

export type StartupOptions = {
  readonly applicationName: string;
  /** Makes the connection a walsender of the endpoint's database. */
  readonly replication?: boolean;
  /** Beyond, or instead of, the pinned ones. */
  readonly settings?: Readonly<Record<string, string>>;
};

/** https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-STARTUPMESSAGE */
export function startupParameters(
  endpoint: Endpoint,
  { applicationName, replication, settings }: StartupOptions,
): Readonly<Record<string, string>> {
  return {
    user: endpoint.user,
    database: endpoint.database,
    application_name: applicationName,
    options: startupOptions({ ...PINNED_SETTINGS, ...settings }),
    ...(replication === true ? { replication: 'database' } : {}),
  };
}

/**
 * From the startup message to the first ReadyForQuery. https://www.postgresql.org/docs/current/protocol-flow.html
 *
 * Throws AUTHENTICATION_FAILED, DATABASE_MISSING, PRIVILEGE_MISSING, CONNECTION_FAILED or PROTOCOL_VIOLATION.
 */
export async function startUp(parts: {
  readonly channel: ByteChannel;
  readonly socket: Socket;
  readonly endpoint: Endpoint;
  readonly parameters: Readonly<Record<string, string>>;
}): Promise<Backend> {
  const { channel, endpoint } = parts;
  const login = new Login(parts.socket, endpoint);
  const walker = new FrameWalker({ frameBytesMax: STARTUP_FRAME_BYTES_MAX });
  const parameters = new Map<string, string>();
  let key: Pick<Backend, 'processId' | 'secretKey'> = { processId: 0, secretKey: Buffer.alloc(4) };
  await channel.write(startupMessage(parts.parameters));
  for (;;) {
    while (walker.next()) {
      switch (walker.tag) {
        case BACKEND.authentication: {
          const answer = await login.answer(walker);
          if (answer !== undefined) await channel.write(answer);
          break;
        }
        case BACKEND.errorResponse:
          throw refusalError(endpoint, decodeServerMessage(walker));
        case BACKEND.parameterStatus: {
          const { name, value } = decodeParameterStatus(walker);
          parameters.set(name, value);
          break;
        }
        case BACKEND.backendKeyData:
          key = decodeBackendKeyData(walker);
          break;
        case BACKEND.noticeResponse:
        case BACKEND.negotiateProtocolVersion:
          break;
        case BACKEND.readyForQuery:
          if (!login.isComplete) throw violation(endpoint, 'skipped the authentication');
          channel.unread(walker.rest());
          return { ...key, parameters };
        default:
          throw violation(endpoint, 'sent what is not a message of the startup phase');
      }
    }
    const chunk = await channel.read();
    if (chunk === undefined) {
      const where = describeEndpoint(endpoint);
      throw new OperatorError('CONNECTION_FAILED', `${where} closed the connection during startup`);
    }
    walker.feed(chunk);
  }
}

/** The client's side of the authentication that the server asks for. */
class Login {
  readonly #socket: Socket;
  readonly #endpoint: Endpoint;
  /** While SCRAM is under way: until the server has proven itself, `ok` is not believed. */
  #scram: { nonce: string; binding: ChannelBinding; serverSignature?: Buffer } | undefined;
  #isBound = false;
  isComplete = false;

  constructor(socket: Socket, endpoint: Endpoint) {
    this.#socket = socket;
    this.#endpoint = endpoint;
  }

  async answer(body: Body): Promise<Buffer | undefined> {
    const request = decodeAuthentication(body);
    switch (request.kind) {
      case 'ok':
        if (this.#scram !== undefined) throw violation(this.#endpoint, 'ended SCRAM early');
        this.#refuseUnbound();
        this.isComplete = true;
        return undefined;
      case 'cleartext':
        this.#refuseUnbound();
        return passwordMessage(this.#password());
      case 'md5':
        this.#refuseUnbound();
        return passwordMessage(md5Response(this.#endpoint.user, this.#password(), request.salt));
      case 'sasl':
        return this.#beginScram(request.mechanisms);
      case 'saslContinue':
        return this.#continueScram(request.data);
      case 'saslFinal':
        this.#finishScram(request.data);
        return undefined;
      case 'unsupported':
        throw this.#failure(
          `asks for an authentication method (${request.method}) that is not supported`,
        );
      default:
        return assertNever(request);
    }
  }

  #beginScram(mechanisms: readonly string[]): Buffer {
    const hash = this.#certificateHash();
    const isBound = hash !== undefined && mechanisms.includes('SCRAM-SHA-256-PLUS');
    if (!isBound && !mechanisms.includes('SCRAM-SHA-256')) {
      throw this.#failure(`offers no SASL mechanism but ${mechanisms.join(', ')}`);
    }
    const binding: ChannelBinding = isBound
      ? { kind: 'tlsServerEndPoint', certificateHash: hash }
      : { kind: hash === undefined ? 'none' : 'unoffered' };
    this.#isBound = isBound;
    this.#refuseUnbound();
    const nonce = randomBytes(18).toString('base64');
    this.#scram = { nonce, binding };
    const mechanism = isBound ? 'SCRAM-SHA-256-PLUS' : 'SCRAM-SHA-256';
    return saslInitialResponse(mechanism, scramClientFirst(nonce, binding));
  }

  async #continueScram(serverFirst: string): Promise<Buffer> {
    if (this.#scram === undefined) throw violation(this.#endpoint, 'continued SCRAM out of turn');
    const { nonce, binding } = this.#scram;
    const { salt, iterations } = decodeServerFirst(serverFirst, nonce);
    const prepared = saslPrep(this.#password());
    // Asynchronously: it takes milliseconds of computing, thousands with a high iteration count.
    const saltedPassword = await deriveKey(prepared, salt, iterations, 32, 'sha256');
    const final = scramClientFinal({ clientNonce: nonce, binding, serverFirst, saltedPassword });
    this.#scram = { nonce, binding, serverSignature: final.serverSignature };
    return saslResponse(final.message);
  }

  #finishScram(serverFinal: string): void {
    const signature = this.#scram?.serverSignature;
    if (signature === undefined || !isServerProven(serverFinal, signature)) {
      throw this.#failure('could not prove that it knows the password');
    }
    this.#scram = undefined;
  }

  #certificateHash(): Buffer | undefined {
    const isWanted = this.#endpoint.channelBinding !== 'disable';
    return isWanted && this.#socket instanceof TLSSocket
      ? certificateHash(this.#socket)
      : undefined;
  }

  /** Before anything is given away: an unbound login could be one with a server in between. */
  #refuseUnbound(): void {
    if (this.#endpoint.channelBinding !== 'require' || this.#isBound) return;
    throw this.#failure('does not bind the login to the TLS connection');
  }

  #password(): string {
    const { password } = this.#endpoint;
    if (password === undefined || password === '') {
      throw this.#failure('asks for a password, and none was given');
    }
    return password;
  }

  #failure(what: string): OperatorError {
    return new OperatorError(
      'AUTHENTICATION_FAILED',
      `${describeEndpoint(this.#endpoint)} ${what}`,
    );
  }
}

function md5Response(user: string, password: string, salt: Buffer): string {
  const inner = createHash('md5').update(`${password}${user}`).digest('hex');
  return `md5${createHash('md5').update(inner).update(salt).digest('hex')}`;
}

function violation(endpoint: Endpoint, what: string): OperatorError {
  return new OperatorError('PROTOCOL_VIOLATION', `${describeEndpoint(endpoint)} ${what}`);
}
