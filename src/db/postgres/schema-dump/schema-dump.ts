import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';

import { describeEndpoint, type Endpoint } from '#src/core/endpoint.ts';
import { quoteIdentifier, quoteTable, type TableName } from '#src/core/table.ts';
import { OperatorError } from '#src/lib/errors.ts';

import { type DumpConnection, openDumpConnection } from './schema-dump-connection.ts';

/** What the thread gets. */
export type DumpWorkerData = {
  readonly args: readonly string[];
  /** What the server said at the end of its authentication; the answer to libpq's startup packet. */
  readonly greeting: Uint8Array;
  /** One cell: 1 once a reply has been posted. */
  readonly replied: Int32Array<SharedArrayBuffer>;
  readonly port: MessagePort;
};

/** What the thread says at its end. */
export type DumpWorkerMessage =
  | { readonly type: 'dumped'; readonly script: string }
  | { readonly type: 'failed'; readonly message: string };

/** What is left out, without what depends on it: that is for the caller to name, too. */
export type DumpExclusions = {
  /** Tables, views, materialised views and sequences. */
  readonly relations: readonly TableName[];
  /** Schemas of which every relation is left out; their types and functions stay. */
  readonly schemas: readonly string[];
};

export type DumpOptions = {
  readonly endpoint: Endpoint;
  /** An exported snapshot to read the catalog at. */
  readonly snapshot?: string;
  readonly exclude: DumpExclusions;
  /** With owners, grants and default privileges; else without. */
  readonly isWithOwners?: boolean;
  /** These tables alone, with what belongs to them. */
  readonly only?: readonly TableName[];
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
};

const FLAGS: readonly string[] = [
  '--schema-only',
  '--encoding=UTF8',
  '--no-publications',
  '--no-subscriptions',
  '--no-tablespaces',
  '--exclude-schema=understudy',
];

const WITHOUT_OWNERS: readonly string[] = ['--no-owner', '--no-privileges'];

/** The arguments lie on the stack of the WASM module, which has 64 kB and no guard. */
const ARGUMENTS_BYTES_MAX = 32 * 1024;
/** A pointer, a terminator and the alignment of each. */
const ARGUMENT_BYTES = 20;

/** libpq is told that it is connected already; only `user` and the absence of encryption matter. */
const CONNECTION_STRING = 'host=localhost user=understudy sslmode=disable gssencmode=disable';

/**
 * The schema of a database as pg_dump writes it: all sections, without publications, subscriptions and
 * tablespaces. The catalog is read over one connection of ours with pinned settings,
 * so pg_dump never sees a password. Takes ACCESS SHARE locks on the tables for as long as it runs,
 * one to two seconds.
 *
 * Throws what opening a connection throws, CONNECTION_LOST, and SCHEMA_DUMP_FAILED with pg_dump's text.
 */
export async function dumpSchema(options: DumpOptions): Promise<string> {
  return runPgDump({ ...options, args: dumpArguments(options) });
}

/** What pg_dump writes with these arguments, over a connection of ours. Throws as `dumpSchema` does. */
export async function runPgDump(
  options: Pick<DumpOptions, 'endpoint' | 'signal' | 'timeoutMs'> & {
    readonly args: readonly string[];
  },
): Promise<string> {
  const { endpoint, args, signal, timeoutMs } = options;
  signal.throwIfAborted();
  const deadline = AbortSignal.timeout(timeoutMs);
  await using connection = await openDumpConnection(endpoint);
  const { port1, port2 } = new MessageChannel();
  const replied = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const data: DumpWorkerData = {
    args: [...args, `--dbname=${CONNECTION_STRING}`],
    greeting: connection.greeting,
    replied,
    port: port2,
  };
  // An installed package has its types stripped, so the thread's file ends as this one does (trap 46).
  const entry = new URL('./schema-dump-worker.ts', import.meta.url);
  const worker = new Worker(entry, { workerData: data, transferList: [port2] });
  try {
    return await new Promise<string>((resolve, reject) => {
      const stop = () => reject(signal.aborted ? signal.reason : timedOut(endpoint, timeoutMs));
      const ended = AbortSignal.any([signal, deadline]);
      ended.addEventListener('abort', stop, { once: true });
      // It may have happened while the connection was made.
      if (ended.aborted) stop();
      carry(connection, { port: port1, replied, reject });
      worker.once('error', (error) => reject(dumpFailed(connection, error.message)));
      worker.once('message', (message: DumpWorkerMessage) => {
        if (message.type === 'dumped') resolve(message.script);
        else reject(dumpFailed(connection, message.message));
      });
      worker.once('exit', () => reject(dumpFailed(connection, 'the thread ended early')));
    });
  } catch (error) {
    // That it could not be told to stop is not the failure to report.
    await connection.stop().catch(() => undefined);
    throw error;
  } finally {
    port1.close();
    // Ends a thread that waits for a reply, too: the only way out when the server is gone.
    await worker.terminate();
  }
}

/** What the thread asks goes to the server; the whole reply comes back and wakes the thread. */
function carry(
  connection: DumpConnection,
  thread: {
    readonly port: MessagePort;
    readonly replied: Int32Array<SharedArrayBuffer>;
    readonly reject: (error: unknown) => void;
  },
): void {
  const { port, replied, reject } = thread;
  const answer = async (messages: Uint8Array): Promise<void> => {
    port.postMessage(await connection.exchange(messages));
    Atomics.store(replied, 0, 1);
    Atomics.notify(replied, 0);
  };
  port.on('message', (messages: Uint8Array) => {
    answer(messages).catch(reject);
  });
}

function dumpArguments(options: DumpOptions): readonly string[] {
  const { snapshot, exclude, only = [] } = options;
  const args = [
    ...FLAGS,
    ...(options.isWithOwners === true ? [] : WITHOUT_OWNERS),
    ...(snapshot === undefined ? [] : [`--snapshot=${snapshot}`]),
    // Inside double quotes a pattern of pg_dump has no wildcards: it is the name.
    ...exclude.schemas.map((schema) => `--exclude-table=${quoteIdentifier(schema)}.*`),
    ...exclude.relations.map((relation) => `--exclude-table=${quoteTable(relation)}`),
    ...only.map((relation) => `--table=${quoteTable(relation)}`),
  ];
  const bytes = [...args, CONNECTION_STRING].reduce(
    (sum, arg) => sum + Buffer.byteLength(arg) + ARGUMENT_BYTES,
    0,
  );
  if (bytes <= ARGUMENTS_BYTES_MAX) return args;
  throw new OperatorError(
    'SCHEMA_DUMP_FAILED',
    `the selection leaves out ${exclude.relations.length} relations by name, ` +
      `${bytes} bytes, of which ${ARGUMENTS_BYTES_MAX} are possible`,
  );
}

function dumpFailed(connection: DumpConnection, text: string): OperatorError {
  const { endpoint } = connection;
  return new OperatorError(
    'SCHEMA_DUMP_FAILED',
    `pg_dump of ${describeEndpoint(endpoint)} failed: ${text.replaceAll(/\s+/g, ' ').trim()}`,
    { detail: { sqlstate: connection.lastSqlstate() ?? '' } },
  );
}

function timedOut(endpoint: Endpoint, timeoutMs: number): OperatorError {
  return new OperatorError(
    'SCHEMA_DUMP_FAILED',
    `pg_dump of ${describeEndpoint(endpoint)} did not finish within ${timeoutMs} ms`,
  );
}
