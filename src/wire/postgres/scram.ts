import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

import { OperatorError } from '#src/lib/errors.ts';

/**
 * The client's side of SCRAM-SHA-256, with or without channel binding. Pure: the nonce, the hash of the
 * server's certificate and the salted password (PBKDF2, which the caller runs off the event loop) are
 * arguments.
 *
 *     client-first ──►  n,,n=,r=<nonce>
 *     server-first ◄──  r=<nonce+>,s=<salt>,i=<iterations>
 *     client-final ──►  c=<binding>,r=<nonce+>,p=<proof>
 *     server-final ◄──  v=<signature>        proves that the server knows the verifier
 *
 * RFC 5802, RFC 7677; https://www.postgresql.org/docs/current/sasl-authentication.html
 */

/**
 * Which gs2 header to send. `none`: no TLS, or no way to hash the certificate. `unoffered`: we could,
 * but the server did not offer -PLUS; it refuses this when it did, so a downgrade in the middle is found.
 */
export type ChannelBinding =
  | { readonly kind: 'none' }
  | { readonly kind: 'unoffered' }
  | { readonly kind: 'tlsServerEndPoint'; readonly certificateHash: Buffer };

export type ServerFirst = {
  readonly nonce: string;
  readonly salt: Buffer;
  readonly iterations: number;
};

/** The default is 4096; a limit, because a hostile server could make us compute for ever. */
const ITERATIONS_MAX = 10_000_000;

function gs2Header(binding: ChannelBinding): string {
  if (binding.kind === 'none') return 'n,,';
  return binding.kind === 'unoffered' ? 'y,,' : 'p=tls-server-end-point,,';
}

function firstBare(nonce: string, user: string): string {
  return `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${nonce}`;
}

/** `user` is empty for Postgres, which knows it from the startup message. */
export function scramClientFirst(nonce: string, binding: ChannelBinding, user = ''): string {
  return gs2Header(binding) + firstBare(nonce, user);
}

/** Throws PROTOCOL_VIOLATION for a malformed message, or one that does not go on with our nonce. */
export function decodeServerFirst(message: string, clientNonce: string): ServerFirst {
  const match = /^r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9]\d{0,9})(?:,|$)/.exec(
    message,
  );
  const [, nonce = '', salt = '', iterations = ''] = match ?? [];
  if (match === null || !nonce.startsWith(clientNonce) || nonce.length === clientNonce.length) {
    throw new OperatorError('PROTOCOL_VIOLATION', 'the server sent a malformed SCRAM challenge');
  }
  if (Number(iterations) > ITERATIONS_MAX) {
    throw new OperatorError(
      'PROTOCOL_VIOLATION',
      `the server asks for ${iterations} SCRAM iterations`,
    );
  }
  return { nonce, salt: Buffer.from(salt, 'base64'), iterations: Number(iterations) };
}

/** The answer to a challenge, and the signature that only the real server can send back. */
export function scramClientFinal(exchange: {
  readonly clientNonce: string;
  readonly binding: ChannelBinding;
  readonly serverFirst: string;
  /** PBKDF2-HMAC-SHA-256 of `saslPrep(password)` with the challenge's salt and iterations, 32 bytes. */
  readonly saltedPassword: Buffer;
  readonly user?: string;
}): { readonly message: string; readonly serverSignature: Buffer } {
  const { clientNonce, binding, serverFirst, saltedPassword } = exchange;
  const { nonce } = decodeServerFirst(serverFirst, clientNonce);
  const bound = Buffer.concat([
    Buffer.from(gs2Header(binding)),
    binding.kind === 'tlsServerEndPoint' ? binding.certificateHash : Buffer.alloc(0),
  ]);
  const withoutProof = `c=${bound.toString('base64')},r=${nonce}`;
  const bare = firstBare(clientNonce, exchange.user ?? '');
  const authMessage = `${bare},${serverFirst},${withoutProof}`;
  const clientKey = hmac(saltedPassword, 'Client Key');
  const storedKey = createHash('sha256').update(clientKey).digest();
  const proof = xor(clientKey, hmac(storedKey, authMessage));
  return {
    message: `${withoutProof},p=${proof.toString('base64')}`,
    serverSignature: hmac(hmac(saltedPassword, 'Server Key'), authMessage),
  };
}

/** Whether the server's last message proves that it knows the password's verifier. */
export function isServerProven(serverFinal: string, serverSignature: Buffer): boolean {
  const match = /^v=([A-Za-z0-9+/=]+)(?:,|$)/.exec(serverFinal);
  const signature = Buffer.from(match?.[1] ?? '', 'base64');
  return signature.length === serverSignature.length && timingSafeEqual(signature, serverSignature);
}

/**
 * The password as both sides hash it: RFC 4013's mapping and normalisation. Its prohibitions are left
 * out; Postgres then uses the password as it is, and such characters do not change under NFKC.
 */
export function saslPrep(password: string): string {
  const spaces = /[\u00A0\u1680\u2000-\u200B\u202F\u205F\u3000]/gu;
  const nothing =
    /\u00AD|\u034F|\u1806|[\u180B-\u180D]|\u200C|\u200D|\u2060|[\uFE00-\uFE0F]|\uFEFF/gu;
  return password.replaceAll(spaces, ' ').replaceAll(nothing, '').normalize('NFKC');
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function xor(left: Buffer, right: Buffer): Buffer {
  return Buffer.from(left.map((byte, i) => byte ^ (right[i] ?? 0)));
}
