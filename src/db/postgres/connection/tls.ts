import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import {
  checkServerIdentity,
  type ConnectionOptions,
  getCACertificates,
  type TLSSocket,
} from 'node:tls';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** The value of `sslRootCert` that means the operating system's certificates. */
export const SYSTEM_ROOTS = 'system';

/**
 * How to speak TLS with an endpoint, as libpq would. A given root certificate is always verified
 * against, in `require` too; only `verify-full` also compares the host's name.
 * https://www.postgresql.org/docs/current/libpq-ssl.html
 *
 * Throws TLS_FAILED when certificates are missing, or cannot be read as such.
 */
export function tlsOptions(endpoint: Endpoint): ConnectionOptions {
  const { host, sslMode, sslRootCert, sslCert, sslKey } = endpoint;
  const isVerifying = sslRootCert !== undefined || sslMode.startsWith('verify');
  return {
    ...(isVerifying ? { ca: trustedRoots(endpoint) } : {}),
    rejectUnauthorized: isVerifying,
    checkServerIdentity: (_name, certificate) =>
      sslMode === 'verify-full' ? checkServerIdentity(host, certificate) : undefined,
    // A name indication must not be an address (RFC 6066, section 3).
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(sslCert === undefined ? {} : { cert: sslCert }),
    ...(sslKey === undefined ? {} : { key: sslKey }),
    ALPNProtocols: ['postgresql'],
    minVersion: 'TLSv1.2',
  };
}

function trustedRoots(endpoint: Endpoint): string[] {
  const { sslMode, sslRootCert } = endpoint;
  if (sslRootCert === undefined) {
    throw new OperatorError(
      'TLS_FAILED',
      `sslmode=${sslMode} needs a root certificate for ${describeEndpoint(endpoint)}`,
    );
  }
  if (sslRootCert !== SYSTEM_ROOTS) return [sslRootCert];
  if (sslMode !== 'verify-full') {
    throw new OperatorError('TLS_FAILED', `sslrootcert=system needs sslmode=verify-full`);
  }
  return getCACertificates('system');
}

/**
 * The hash of the server's certificate for SCRAM's channel binding, or undefined when its signature has
 * no hash function of its own (Ed25519, trap 37). RFC 5929, section 4.1.
 */
export function certificateHash(socket: TLSSocket): Buffer | undefined {
  const certificate = socket.getPeerX509Certificate();
  const match = /(md5|sha1|sha224|sha256|sha384|sha512)/i.exec(
    certificate?.signatureAlgorithm ?? '',
  );
  if (certificate === undefined || match === null) return undefined;
  const name = String(match[1]).toLowerCase();
  return createHash(name === 'md5' || name === 'sha1' ? 'sha256' : name)
    .update(certificate.raw)
    .digest();
}
