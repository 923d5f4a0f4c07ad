import { pbkdf2Sync } from 'node:crypto';

import { expect, test } from 'vitest';

import {
  decodeServerFirst,
  isServerProven,
  saslPrep,
  scramClientFinal,
  scramClientFirst,
} from './scram.ts';

// RFC 7677, section 3.
const NONCE = 'rOprNGfwEbeRWgbNEkqO';
const SERVER_FIRST =
  'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096';
const NONE = { kind: 'none' } as const;

function finalMessage() {
  const challenge = decodeServerFirst(SERVER_FIRST, NONCE);
  return scramClientFinal({
    clientNonce: NONCE,
    binding: NONE,
    serverFirst: SERVER_FIRST,
    saltedPassword: pbkdf2Sync('pencil', challenge.salt, challenge.iterations, 32, 'sha256'),
    user: 'user',
  });
}

test('the exchange of RFC 7677 comes out byte for byte', () => {
  expect(scramClientFirst(NONCE, NONE, 'user')).toBe('n,,n=user,r=rOprNGfwEbeRWgbNEkqO');
  const final = finalMessage();
  expect(final.message).toBe(
    'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=',
  );
  expect(
    isServerProven('v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=', final.serverSignature),
  ).toBe(true);
});

test('a server that does not know the verifier is not believed', () => {
  const { serverSignature } = finalMessage();
  expect(isServerProven(`v=${Buffer.alloc(32).toString('base64')}`, serverSignature)).toBe(false);
  expect(isServerProven('v=', serverSignature)).toBe(false);
  expect(isServerProven('e=other-error', serverSignature)).toBe(false);
});

test('channel binding puts the certificate hash behind the header', () => {
  const binding = { kind: 'tlsServerEndPoint', certificateHash: Buffer.alloc(32, 7) } as const;
  expect(scramClientFirst('abc', binding)).toBe('p=tls-server-end-point,,n=,r=abc');
  expect(scramClientFirst('abc', { kind: 'unoffered' })).toBe('y,,n=,r=abc');
  const { message } = scramClientFinal({
    clientNonce: 'abc',
    binding,
    serverFirst: 'r=abcdef,s=QUJD,i=1',
    saltedPassword: Buffer.alloc(32),
  });
  const bound = Buffer.from(/^c=([^,]*),/.exec(message)![1]!, 'base64');
  expect(bound.subarray(0, 24).toString()).toBe('p=tls-server-end-point,,');
  expect(bound.subarray(24)).toEqual(binding.certificateHash);
});

test.each([
  'r=other,s=QUJD,i=4096',
  'r=abc,s=QUJD,i=4096', // our nonce alone: the server added nothing
  'r=abcdef,s=QUJD,i=0',
  'r=abcdef,s=QUJD',
  'r=abcdef,s=QUJD,i=2147483647', // would compute for hours
  'e=invalid-proof',
  '',
])('the challenge %j is refused', (message) => {
  expect(() => decodeServerFirst(message, 'abc')).toThrow(
    expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
  );
});

// RFC 4013, section 3.
test.each([
  ['I\u00ADX', 'IX'],
  ['user', 'user'],
  ['\u00AA', 'a'],
  ['\u2168', 'IX'],
  ['a\u00A0b', 'a b'],
])('saslPrep(%j) is %j', (password, prepared) => {
  expect(saslPrep(password)).toBe(prepared);
});
