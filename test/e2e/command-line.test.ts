import { expect, test, vi } from 'vitest';

import { runCommand } from '#test/command.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

test('the command prints its help and its version', async () => {
  const [help, version] = await Promise.all([runCommand(['--help']), runCommand(['--version'])]);
  expect([help.code, help.stderr]).toEqual([0, '']);
  expect(help.stdout).toContain('Usage: understudy');
  expect([version.code, version.stderr]).toEqual([0, '']);
  expect(version.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

test('bad usage ends the process with 1, a reason and a hint', async () => {
  const { code, stdout, stderr } = await runCommand(['clone', '--jobs', 'many']);
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(/^error CONFIG_INVALID: .*\nhint: .*\n$/);
});
