import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { FrameWalker } from './frame.ts';

type Frame = { readonly tag: number; readonly body: Buffer };

function encode(frame: Frame): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt8(frame.tag, 0);
  header.writeInt32BE(4 + frame.body.length, 1);
  return Buffer.concat([header, frame.body]);
}

function walk(walker: FrameWalker, chunk: Buffer): Frame[] {
  const seen: Frame[] = [];
  walker.feed(chunk);
  while (walker.next()) {
    seen.push({ tag: walker.tag, body: walker.buffer.subarray(walker.start, walker.end) });
  }
  return seen;
}

const anyFrame = fc.record({
  tag: fc.integer({ min: 0, max: 255 }),
  body: fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes)),
});

// TCP may cut anywhere, so the split points are part of the input.
test('frames survive any chunking', () => {
  fc.assert(
    fc.property(fc.array(anyFrame), fc.array(fc.nat()), (frames, cuts) => {
      const bytes = Buffer.concat(frames.map(encode));
      const edges = cuts.map((n) => n % (bytes.length + 1)).toSorted((a, b) => a - b);
      const walker = new FrameWalker({ frameBytesMax: 1024 });
      const seen = [...edges, bytes.length].flatMap((edge, i) =>
        walk(walker, bytes.subarray(edges[i - 1] ?? 0, edge)),
      );
      expect(seen).toEqual(frames);
    }),
  );
});

test.each([0x7fffffff, 1021, 3, 0, -1])(
  'a length of %d is refused from its header alone',
  (length) => {
    const header = Buffer.alloc(5, 0x44);
    header.writeInt32BE(length, 1);
    const walker = new FrameWalker({ frameBytesMax: 1020 });
    for (const byte of header.subarray(0, 4)) expect(walk(walker, Buffer.of(byte))).toEqual([]);
    expect(() => walk(walker, header.subarray(4))).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
    );
  },
);

// Trap 49: a splitter that joined what had arrived took 29.5 s for one frame of 100 MB.
test(
  'a frame of 100 MB in small chunks is put together in linear time',
  { timeout: 15_000 },
  () => {
    const body = Buffer.alloc(100_000_000, 1);
    const bytes = encode({ tag: 0x44, body });
    const walker = new FrameWalker();
    let frames = 0;
    for (let at = 0; at < bytes.length; at += 16_384) {
      walker.feed(bytes.subarray(at, at + 16_384));
      while (walker.next()) frames += 1;
    }
    expect(frames).toBe(1);
    expect(walker.end - walker.start).toBe(body.length);
  },
);

test('rest is what lies behind the current frame', () => {
  const bytes = Buffer.concat([encode({ tag: 0x5a, body: Buffer.from('I') }), Buffer.from('more')]);
  const walker = new FrameWalker();
  walker.feed(bytes.subarray(0, 3));
  expect(walker.next()).toBe(false);
  walker.feed(bytes.subarray(3));
  expect(walker.next()).toBe(true);
  expect(walker.rest().toString()).toBe('more');
});
