/**
 * Thread entry: runs pg_dump, compiled to WASM, to its end. Its libpq reads and writes synchronously,
 * so this thread sleeps in Atomics.wait while schema-dump.ts carries bytes to the server and back.
 * There is always a way out of that sleep: the parent answers, or terminates the thread.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';

import { pgDump } from '@electric-sql/pglite-tools/pg_dump';

import { assert } from '#src/lib/assert.ts';

import type { DumpWorkerData, DumpWorkerMessage } from './schema-dump.ts';

type PgliteShim = Parameters<typeof pgDump>[0]['pg'];
type RawOptions = { readonly onRawData: (bytes: Uint8Array) => void };

const TAG_QUERY = 0x51; // Q
const TAG_SYNC = 0x53; // S
const TAG_FUNCTION_CALL = 0x46; // F
/** The messages that the server answers up to ReadyForQuery. */
const ANSWERED_TAGS = new Set([TAG_QUERY, TAG_SYNC, TAG_FUNCTION_CALL]);
const LENGTH_BYTES = 4;

const { args, greeting, replied, port }: DumpWorkerData = workerData;

function exchange(bytes: Uint8Array): Uint8Array {
  Atomics.store(replied, 0, 0);
  port.postMessage(bytes);
  Atomics.wait(replied, 0, 0);
  const reply: unknown = receiveMessageOnPort(port)?.message;
  assert(reply instanceof Uint8Array, 'the parent woke the thread without a reply');
  return reply;
}

/**
 * What libpq writes, cut at whole messages. libpq flushes a long query in pieces of 8 kB: to wait for
 * an answer after any but the last would be to wait for ever.
 */
class Outbox {
  #pieces: Uint8Array[] = [];
  #isStarted = false;

  write(bytes: Uint8Array): Uint8Array | undefined {
    // The caller's memory is the WASM heap, which moves and is used again.
    this.#pieces.push(bytes.slice());
    const pending = Buffer.concat(this.#pieces);
    const { endBytes, isAnswered } = this.#measure(pending);
    if (endBytes !== pending.length) {
      this.#pieces = [pending];
      return undefined;
    }
    this.#pieces = [];
    if (!this.#isStarted) {
      this.#isStarted = true;
      return greeting;
    }
    return isAnswered ? exchange(pending) : new Uint8Array();
  }

  /** Where the last whole message ends, and whether the server will answer any of them. */
  #measure(pending: Buffer): { endBytes: number; isAnswered: boolean } {
    // The startup packet is the only one without a tag.
    const tagBytes = this.#isStarted ? 1 : 0;
    let endBytes = 0;
    let isAnswered = false;
    while (pending.length >= endBytes + tagBytes + LENGTH_BYTES) {
      const next = endBytes + tagBytes + pending.readInt32BE(endBytes + tagBytes);
      if (next > pending.length) break;
      isAnswered ||= ANSWERED_TAGS.has(pending.readUInt8(endBytes));
      endBytes = next;
    }
    return { endBytes, isAnswered };
  }
}

const outbox = new Outbox();
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the part of PGlite that pgDump() uses
const shim = {
  // pgDump() saves and restores the settings of an in-process database; ours is not one.
  query: async () => ({ rows: [{ search_path: '' }] }),
  exec: async () => [],
  execProtocolRawStream: (bytes: Uint8Array, { onRawData }: RawOptions) => {
    const reply = outbox.write(bytes);
    if (reply !== undefined && reply.length > 0) onRawData(reply);
  },
} as unknown as PgliteShim;

function report(message: DumpWorkerMessage): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's parent is no window
  parentPort?.postMessage(message);
}

try {
  const file = await pgDump({ pg: shim, args: [...args] });
  report({ type: 'dumped', script: await file.text() });
} catch (error) {
  report({ type: 'failed', message: error instanceof Error ? error.message : String(error) });
}
