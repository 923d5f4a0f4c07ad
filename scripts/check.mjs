// Types, lint, format, unused code. Each says nothing when it is content.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '..');

const CHECKS = [
  { name: 'types', file: 'typescript/bin/tsc', args: [] },
  { name: 'lint', file: 'oxlint/bin/oxlint', args: ['--deny-warnings'] },
  { name: 'format', file: 'oxfmt/bin/oxfmt', args: ['--check'] },
  { name: 'unused code', file: 'knip/bin/knip.js', args: [] },
];

/** Run every check, print what the failing ones say, and give their names. */
export function runChecks() {
  const failed = [];
  for (const { name, file, args } of CHECKS) {
    const { status, stdout, stderr, error } = spawnSync(
      process.execPath,
      [join(ROOT, 'node_modules', file), ...args],
      { cwd: ROOT, encoding: 'utf8' },
    );
    console.log(`${status === 0 ? 'ok  ' : 'FAIL'} ${name}`);
    if (status === 0) continue;
    failed.push(name);
    console.log(`${stdout}${stderr}${error ?? ''}`);
  }
  return failed;
}

if (import.meta.main) process.exitCode = runChecks().length === 0 ? 0 : 1;
