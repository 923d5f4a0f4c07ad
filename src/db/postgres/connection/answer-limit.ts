import { describeEndpoint } from '#src/core/endpoint.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { ANSWER_MS_MAX } from './session.ts';
import type { WireConnection } from './wire-connection.ts';

/**
 * Until it is disposed, `connection` has so long for all that it is asked, and ends at once when `signal` is
 * aborted: what waits for an answer then throws CONNECTION_LOST. Else a server that is frozen, or behind a dead
 * network, is waited for as long as TCP does.
 */
export function limitAnswers(
  connection: WireConnection,
  { answerMsMax = ANSWER_MS_MAX, signal }: { answerMsMax?: number; signal?: AbortSignal } = {},
): Disposable {
  const late = setTimeout(() => {
    const where = describeEndpoint(connection.endpoint);
    const message = `${where} did not answer within ${answerMsMax / 1000} s`;
    connection.destroy(new OperatorError('CONNECTION_LOST', message));
  }, answerMsMax);
  const end = (): void => connection.destroy();
  if (signal?.aborted === true) end();
  signal?.addEventListener('abort', end, { once: true });
  return {
    [Symbol.dispose]: () => {
      clearTimeout(late);
      signal?.removeEventListener('abort', end);
    },
  };
}
