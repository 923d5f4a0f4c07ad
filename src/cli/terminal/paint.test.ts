import { WriteStream } from 'node:tty';

import { afterEach, expect, test, vi } from 'vitest';

import { paintFor } from './paint.ts';

afterEach(() => vi.unstubAllEnvs());

/** What Node itself says of a terminal with these variables. */
const terminal = {
  isTTY: true,
  hasColors: () => WriteStream.prototype.getColorDepth(process.env) > 2,
};

test('a terminal gets colours, unless NO_COLOR or a dumb terminal forbids them', () => {
  vi.stubEnv('FORCE_COLOR', undefined);
  vi.stubEnv('TERM', 'xterm-256color');
  vi.stubEnv('CI', undefined);
  vi.stubEnv('NO_COLOR', undefined);
  expect(paintFor(terminal)('red', 'x')).toBe('\u001B[31mx\u001B[39m');
  vi.stubEnv('NO_COLOR', '1');
  expect(paintFor(terminal)('red', 'x')).toBe('x');
  vi.stubEnv('NO_COLOR', undefined);
  vi.stubEnv('TERM', 'dumb');
  expect(paintFor(terminal)('red', 'x')).toBe('x');
});

test('a pipe gets none', () => {
  expect(paintFor({})('red', 'x')).toBe('x');
});
