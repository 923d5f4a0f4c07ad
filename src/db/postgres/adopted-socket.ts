import type { Socket } from 'node:net';

import { BACKEND } from '#src/wire/postgres/backend.ts';
import { MessageWriter } from '#src/wire/postgres/message-writer.ts';

import type { Backend } from './startup.ts';

/**
 * A socket that is connected and logged in, in the form that `pg` takes: it wants to connect and to log
 * in by itself, so it is told that both worked at once. Why: TLS fallbacks, channel binding and limits
 * are then the same for both kinds of connection, and `pg` throws where nobody can catch when a server
 * asks for a method that it does not know.
 *
 * `rest` is what had arrived behind the first ReadyForQuery.
 */
export function adoptSocket(socket: Socket, backend: Backend, rest: Buffer | undefined): Socket {
  const send = socket.write.bind(socket);
  const adopted = {
    connect: (): Socket => {
      process.nextTick(() => socket.emit('connect'));
      return socket;
    },
    // The first message is `pg`'s startup message; the server has had ours.
    write: (): boolean => {
      Object.assign(socket, { write: send });
      socket.unshift(Buffer.concat([startupAnswer(backend), rest ?? Buffer.alloc(0)]));
      return true;
    },
  };
  return Object.assign(socket, adopted);
}

function startupAnswer(backend: Backend): Buffer {
  const writer = new MessageWriter(1024);
  writer.begin(BACKEND.authentication).int32(0).end();
  for (const [name, value] of backend.parameters) {
    writer.begin(BACKEND.parameterStatus).cstring(name).cstring(value).end();
  }
  writer.begin(BACKEND.backendKeyData).int32(backend.processId).bytes(backend.secretKey).end();
  return writer.begin(BACKEND.readyForQuery).int8(0x49).end().take();
}
