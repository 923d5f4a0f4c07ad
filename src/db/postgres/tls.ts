import type { ConnectionOptions } from 'node:tls';

import type { Endpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** The TLS options to connect with, or false for plain text. */
export async function resolveTls(endpoint: Endpoint): Promise<ConnectionOptions | false> {
  if (endpoint.sslMode === 'require' || endpoint.sslMode.startsWith('verify')) {
    throw new OperatorError('TLS_FAILED', `sslmode=${endpoint.sslMode} is not supported yet`);
  }
  return false;
}
