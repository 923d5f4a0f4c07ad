// `npm test`: the checks, then every test. The last line is `N passed, N failed`; what is left to
// `npm run test:full` (test/full.ts) or to another platform is counted in the line before.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { runChecks } from './check.mjs';

const ROOT = join(import.meta.dirname, '..');
const IS_FULL = process.env['UNDERSTUDY_TEST_FULL'] === '1';
const LEFT_TO = IS_FULL ? 'they are for another platform' : 'npm run test:full has them';

function runTests(args) {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-results-'));
  const results = join(folder, 'results.json');
  try {
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${results}`];
    const { status } = spawnSync(process.execPath, [vitest, 'run', ...reporters, ...args], {
      cwd: ROOT,
      stdio: 'inherit',
    });
    return { isOk: status === 0, ...readCounts(results) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readCounts(file) {
  try {
    const results = JSON.parse(readFileSync(file, 'utf8'));
    return {
      passed: results.numPassedTests,
      failed: results.numFailedTests,
      skipped: results.numPendingTests + results.numTodoTests,
    };
  } catch {
    return { passed: 0, failed: 0, skipped: 0 };
  }
}

const failedChecks = runChecks();
const tests = runTests(process.argv.slice(2));
// A file that does not load or an error outside of a test has no test to its name.
const failedTests = tests.isOk ? 0 : Math.max(tests.failed, 1);
const failed = failedTests + failedChecks.length;
if (failedChecks.length > 0) console.log(`Failed checks: ${failedChecks.join(', ')}`);
if (tests.skipped > 0) console.log(`${tests.skipped} not run here (${LEFT_TO})`);
process.exitCode = failed === 0 ? 0 : 1;
console.log(`${tests.passed} passed, ${failed} failed`);
