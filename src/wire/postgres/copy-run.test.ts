import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { CopyRun } from './copy-run.ts';

function frame(tag: string, body: Uint8Array): Buffer {
  const header = Buffer.alloc(5, tag);
  header.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([header, body]);
}

test('a run ends exactly where another frame begins, whatever the chunking', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 20 })), fc.array(fc.nat()), (bodies, cuts) => {
      const run = Buffer.concat(bodies.map((body) => frame('d', body)));
      const bytes = Buffer.concat([run, frame('c', Buffer.alloc(0)), frame('Z', Buffer.from('I'))]);
      const edges = cuts.map((n) => n % (bytes.length + 1)).toSorted((a, b) => a - b);
      const scanner = new CopyRun();
      let passed = 0;
      for (const [i, edge] of [...edges, bytes.length].entries()) {
        const chunk = bytes.subarray(edges[i - 1] ?? 0, edge);
        const end = scanner.scan(chunk);
        passed += end;
        if (end < chunk.length) break;
      }
      expect(passed).toBe(run.length);
      expect(scanner.frames).toBe(bodies.length);
      expect(scanner.isBetweenFrames).toBe(true);
    }),
  );
});

test('an impossible length is refused, whole or cut', () => {
  const header = Buffer.from([0x64, 0xff, 0xff, 0xff, 0xff]);
  const refusal = expect.objectContaining({ code: 'PROTOCOL_VIOLATION' });
  expect(() => new CopyRun().scan(header)).toThrow(refusal);
  const cut = new CopyRun();
  cut.scan(header.subarray(0, 2));
  expect(() => cut.scan(header.subarray(2))).toThrow(refusal);
});
