import { BACKEND } from './backend.ts';
import { MessageWriter } from './message-writer.ts';

/**
 * What a server says after the startup message of a client that needs no password: for a library that
 * wants to log in on a connection that is logged in already.
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP
 */
export function encodeGreeting(backend: {
  readonly parameters: ReadonlyMap<string, string>;
  readonly processId: number;
  readonly secretKey: Buffer;
}): Buffer {
  const writer = new MessageWriter(1024);
  writer.begin(BACKEND.authentication).int32(0).end();
  for (const [name, value] of backend.parameters) {
    writer.begin(BACKEND.parameterStatus).cstring(name).cstring(value).end();
  }
  writer.begin(BACKEND.backendKeyData).int32(backend.processId).bytes(backend.secretKey).end();
  return writer.begin(BACKEND.readyForQuery).text('I').end().take();
}
