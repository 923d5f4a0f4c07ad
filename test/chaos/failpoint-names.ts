import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const SOURCE = join(import.meta.dirname, '../../src');

/** Every failpoint of the product, read from its source, so that no new one can be forgotten; a file's in its order. */
export async function readFailpointNames(): Promise<readonly string[]> {
  const files = await readdir(SOURCE, { recursive: true });
  const names = new Set<string>();
  for (const file of files.filter((name) => /(?<!\.test)\.ts$/.test(name)).toSorted()) {
    const text = await readFile(join(SOURCE, file), 'utf8');
    for (const [, name] of text.matchAll(/failpoints\.hit\('([^']+)'\)/g)) names.add(name ?? '');
    // A name that is computed would escape the list.
    if (/failpoints\.hit\((?!')/.test(text)) throw new Error(`${file} computes a failpoint's name`);
  }
  return [...names];
}
