import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { runCommand } from './command.ts';
import { describeLeaks, scanOutput } from './output-scan.ts';
import { OUTPUT_VARIABLE } from './output.ts';

async function scan(...lines: readonly string[]) {
  const folder = await mkdtemp(join(tmpdir(), 'understudy-scan-'));
  try {
    await writeFile(join(folder, '1.stdout'), lines.join('\n'));
    return (await scanOutput(folder, [':sesame@'])).map(({ line, column }) => `${line}:${column}`);
  } finally {
    await rm(folder, { recursive: true });
  }
}

// The markers are put together here, so that a line of this file is not taken for a leak itself.
const ROW = ['zq', 'row'].join('');
const SECRET = ['zq', 'pass'].join('');

test('a row value or a password is found wherever it is said', async () => {
  expect(await scan('fine', `an error about ${ROW} 1`, '', `postgres://me:${SECRET}@host`)).toEqual(
    ['2:16', '4:15'],
  );
  expect(await scan('postgres://me:sesame@host')).toEqual(['1:14']);
  expect(await scan('the password is wrong')).toEqual([]);
});

test('the key of a row that differs may hold a value, and nothing else of its line', async () => {
  const key = { name: `${ROW} "1"`, at: null };
  const line = { type: 'difference', kind: 'missing', table: 't', key, columns: [] };
  expect(await scan(JSON.stringify(line))).toEqual([]);
  expect(await scan(JSON.stringify({ ...line, cause: ROW }))).toHaveLength(1);
  expect(await scan(JSON.stringify({ ...line, type: 'notice' }))).toHaveLength(1);
  expect(await scan(JSON.stringify(line).slice(0, -60))).toEqual([]);
  expect(await scan(`app.label  changed  name=${ROW} 1  uses`)).toEqual([]);
  expect(await scan(`app.${ROW}  changed  name=1  uses`)).toHaveLength(1);
});

test('a leak is told by its place, not by what it is', async () => {
  const text = describeLeaks('/f', [{ file: '1.log', line: 3, column: 9 }]);
  expect(text).toBe('1 places hold a row value or a secret:\n  /f/1.log:3:9');
});

test('what a command prints is kept for the scan', async () => {
  const folder = process.env[OUTPUT_VARIABLE] ?? '';
  await runCommand(['verify', '--source', 'no-such-store-of-this-test', '--target', 'x']);
  const files = await readdir(folder);
  const said = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')));
  expect(said.some((text) => text.includes('no-such-store-of-this-test'))).toBe(true);
});
