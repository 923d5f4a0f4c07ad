import { lostError } from '#src/db/postgres/connection/server-error.ts';
import type { WireConnection } from '#src/db/postgres/connection/wire-connection.ts';
import { BACKEND } from '#src/wire/postgres/backend.ts';
import { CopyRun } from '#src/wire/postgres/copy-run.ts';
import { FrameWalker } from '#src/wire/postgres/frame.ts';

/** Messages that a server may send between any two others. */
const ASIDES: ReadonlySet<number> = new Set([
  BACKEND.noticeResponse,
  BACKEND.parameterStatus,
  BACKEND.notificationResponse,
]);

/**
 * Pass the CopyData frames of the source on to the target, verbatim, up to the first message that ends the
 * copy, which is left unread. What is in memory is bounded by the two sockets' buffers: nothing is read
 * while the target takes nothing. Returns the bytes passed on, frame headers included.
 */
export async function pumpCopy(
  pair: { readonly source: WireConnection; readonly target: WireConnection },
  advance: (rows: number, bytes: number) => void,
): Promise<number> {
  const { source, target } = pair;
  const run = new CopyRun();
  let bytes = 0;
  for (;;) {
    const chunk = await source.read();
    if (chunk === undefined) throw lostError(source.endpoint);
    const end = run.scan(chunk);
    if (end > 0) {
      await target.write(end === chunk.length ? chunk : chunk.subarray(0, end));
      bytes += end;
      advance(run.frames, bytes);
    }
    if (end === chunk.length) continue;
    const rest = chunk.subarray(end);
    source.unread(rest);
    if (!ASIDES.has(rest.readUInt8(0))) return bytes;
    await skipFrame(source);
  }
}

async function skipFrame(source: WireConnection): Promise<void> {
  const walker = new FrameWalker();
  while (!walker.next()) {
    const chunk = await source.read();
    if (chunk === undefined) throw lostError(source.endpoint);
    walker.feed(chunk);
  }
  source.unread(walker.rest());
}
