import type { Socket } from 'node:net';

import { encodeGreeting } from '#src/wire/postgres/greeting.ts';

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
      socket.unshift(Buffer.concat([encodeGreeting(backend), rest ?? Buffer.alloc(0)]));
      return true;
    },
  };
  return Object.assign(socket, adopted);
}
