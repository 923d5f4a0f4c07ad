import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { expect, test } from 'vitest';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..');

/** Make `folder` look as `npm install <archive>` leaves it, without a network. */
async function install(archive: string, folder: string): Promise<void> {
  const modules = join(folder, 'node_modules');
  await mkdir(join(modules, '.bin'), { recursive: true });
  await run('tar', ['-xzf', archive, '-C', modules]);
  await run('mv', [join(modules, 'package'), join(modules, 'understudy')]);
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (name.startsWith('.')) continue;
    await symlink(join(ROOT, 'node_modules', name), join(modules, name));
  }
  await symlink('../understudy/bin/understudy', join(modules, '.bin/understudy'));
}

test('the packed program runs where it is installed, without a .ts file (trap 46)', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'understudy-packed-'));
  try {
    const packed = await run('npm', ['pack', '--json', '--pack-destination', folder], {
      cwd: ROOT,
    });
    const [{ filename, files }]: [{ filename: string; files: { path: string }[] }] = JSON.parse(
      packed.stdout,
    );
    const paths = files.map(({ path }) => path);
    expect(paths).toContain('dist/main.js');
    expect(paths).toContain('bin/understudy');
    expect(
      paths.filter((path) => /\.ts$|^test|^scripts\/(?!find-node)|\.test\./.test(path)),
    ).toEqual([]);

    await install(join(folder, filename), folder);
    const command = join(folder, 'node_modules/.bin/understudy');
    const help = await run(command, ['--help'], { cwd: folder });
    expect(help.stdout).toContain('clone');
    expect(help.stderr).toBe('');
    // A command that gets as far as loading everything that it needs.
    const refused = run(
      command,
      [
        'check',
        '--source',
        'postgres://nobody@127.0.0.1:1/x',
        '--target',
        'postgres://nobody@127.0.0.1:1/y',
      ],
      { cwd: folder },
    );
    await expect(refused).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('CONNECTION_FAILED'),
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}, 60_000);
