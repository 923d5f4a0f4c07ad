import { expect, test } from 'vitest';

import { integer, parseOption, parseSize, position, size, store } from './values.ts';

test.each([
  ['10GB', 10 * 2 ** 30],
  ['512mb', 512 * 2 ** 20],
  ['1.5 GB', 1.5 * 2 ** 30],
  ['0kB', 0],
  ['7B', 7],
])('a size is a number with a unit of Postgres: %s', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
});

test.each(['10', 'GB', '-1GB', '1e3GB', '1GiB', '', '1 G B', 'NaNGB'])(
  'a size without a clear meaning is refused: %j',
  (text) => {
    expect(parseSize(text)).toBeUndefined();
  },
);

test('limits are part of the kind', () => {
  const jobs = integer({ min: 1, max: 32 });
  expect([jobs.parse('1'), jobs.parse('32')]).toEqual([1, 32]);
  for (const text of ['0', '33', '-1', '1.0', '0x1', ' 1', '']) {
    expect(jobs.parse(text)).toBeUndefined();
  }
  expect(size({ min: '1MB', max: '2MB' }).parse('3MB')).toBeUndefined();
});

test('a refusal names the option, the value and what is expected', () => {
  expect(() => parseOption('--jobs', integer({ min: 1, max: 32 }), 'many')).toThrow(
    "--jobs must be a whole number from 1 to 32, not 'many'",
  );
  expect(() => parseOption('--until-lsn', position, '12')).toThrow('16/B374D848');
});

test('a refusal does not repeat what may hold a password', () => {
  expect(() => parseOption('--jobs', integer({ min: 1, max: 2 }), 'postgres://u:pw@h/d')).toThrow(
    /^--jobs must be a whole number from 1 to 2$/,
  );
  expect(() => parseOption('--source', store, ' ')).toThrow('--source must be a URL');
});
