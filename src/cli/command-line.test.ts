import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { parseLines, runInProcess } from '#test/command.ts';

const URLS = ['--source', 'postgres://me@h/a', '--target', 'postgres://me@h/b'];

test.each(['check', 'clone', 'verify', 'status', 'drop', 'demo'])(
  '%s explains itself with an example',
  async (name) => {
    const { code, stdout, stderr } = await runInProcess([name, '--help']);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain(`Usage: understudy ${name}`);
    expect(stdout).toMatch(new RegExp(`Example:\n {2}\\$ understudy ${name}`));
  },
);

test('the version is that of the package', async () => {
  const file = join(import.meta.dirname, '../../package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8'));
  expect(await runInProcess(['--version'])).toEqual({
    code: 0,
    stdout: `${version}\n`,
    stderr: '',
  });
});

test('without a command the help is printed, and it is a failure', async () => {
  const { code, stdout, stderr } = await runInProcess([]);
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toContain('Usage: understudy');
});

test.each([
  [['chekc'], /unknown command 'chekc'.*check/],
  [['clone', ...URLS, '--folow'], /unknown option '--folow'.*--follow/],
  [['clone', '--target', 'x'], /required option '--source <url>'/],
  [['clone', ...URLS, '--jobs', '0'], /--jobs must be a whole number from 1 to 32, not '0'/],
  [['clone', ...URLS, '--max-source-wal', '10'], /--max-source-wal must be a size .*, not '10'/],
  [['clone', ...URLS, '--until-lsn', 'end'], /--until-lsn must be a WAL position/],
  [['clone', ...URLS, '--log-level', 'loud'], /--log-level must be one of/],
  [['clone', ...URLS, '--schema', ''], /--schema must be/],
  [['clone', ...URLS, '--until-lsn', '0/1'], /--until-lsn needs --follow/],
  [['clone', ...URLS, '--follow', '--verify', '--until-lsn', '0/1'], /exclude each other/],
  [['status', 'postgres://me:secret@h/d', '--target', 'x'], /too many arguments/],
] as const)('%j is refused with a reason and a hint', async (args, reason) => {
  const { code, stdout, stderr } = await runInProcess(args);
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(reason);
  expect(stderr).toMatch(/^error CONFIG_INVALID: .*\nhint: .*\n$/);
  expect(stderr).not.toContain('secret');
});

test('with --json the refusal is one line on standard output', async () => {
  const { code, stdout, stderr } = await runInProcess(['clone', ...URLS, '--jobs', 'x', '--json']);
  expect([code, stderr]).toEqual([1, '']);
  expect(parseLines(stdout)).toEqual([
    {
      type: 'error',
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('--jobs'),
      hint: expect.any(String),
      detail: { option: '--jobs' },
      time: expect.any(String),
    },
  ]);
});
