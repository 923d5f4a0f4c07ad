// Runs `npm install` when node_modules is missing or is not that of package-lock.json, and is silent
// otherwise. Plain JavaScript for Node 20.
//
// Not `npm ci`: it fails where a registry lacks the optional binaries of other platforms. And not a plain
// install: npm 10 would write the lock file of npm 11 in its own way. So what was installed is compared
// with the lock file, which stays as it is.
import { spawnSync } from 'node:child_process';
import { lstatSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const MODULES = join(ROOT, 'node_modules');

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return {};
  }
}

/** What is installed other than the lock file says, such as `pg 8.23.2` or `pg missing`. */
function differences() {
  const locked = readPackages(join(ROOT, 'package-lock.json'));
  // npm writes this one last, so that an install that was cut short does not count.
  const installed = readPackages(join(MODULES, '.package-lock.json'));
  const paths = new Set([...Object.keys(locked), ...Object.keys(installed)]);
  paths.delete('');
  return [...paths]
    .filter((path) =>
      path in installed
        ? installed[path].version !== locked[path]?.version
        : locked[path].optional !== true,
    )
    .map((path) => {
      const name = path.replace(/^.*node_modules\//, '');
      return `${name} ${installed[path]?.version ?? 'missing'}`;
    });
}

/** A linked folder, as in a git worktree, is looked after by whoever linked it. */
function isLink(path) {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
}

function install() {
  const flags = ['--no-save', '--include=dev', '--include=optional', '--no-audit', '--no-fund'];
  const args = ['install', '--loglevel=error', ...flags];
  const npm = process.env['npm_execpath'];
  const [command, ...rest] =
    npm === undefined ? ['npm', ...args] : [process.execPath, npm, ...args];
  // Its errors are enough; standard output belongs to the program that is started afterwards.
  return spawnSync(command, rest, { cwd: ROOT, stdio: ['ignore', 'ignore', 2] });
}

function fail(reason) {
  console.error(`understudy: npm install failed: ${reason}`);
  // The last line of `npm test` is a count, also when there was nothing to count.
  if (process.env['npm_lifecycle_event'] === 'test') console.log('0 passed, 1 failed');
  process.exit(1);
}

if (!isLink(MODULES) && differences().length > 0) {
  console.error('Installing dependencies with npm; the first time this takes a minute …');
  const startedMs = Date.now();
  const { status, signal, error } = install();
  if (status !== 0) fail(error?.message ?? `exit code ${status ?? signal}`);
  console.error(`Installed in ${Math.round((Date.now() - startedMs) / 1000)} s.`);
  const others = differences();
  if (others.length > 0) {
    console.error(`Note: not the versions of package-lock.json: ${others.join(', ')}.`);
  }
}
