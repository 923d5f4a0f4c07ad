import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const SOURCE = join(import.meta.dirname, '../../src');

/** Every failpoint of the product, read from its source, so that no new one can be forgotten. */
export async function readFailpointNames(): Promise<readonly string[]> {
  const files = await readdir(SOURCE, { recursive: true });
  const names = new Set<string>();
  for (const file of files.filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))) {
    const text = await readFile(join(SOURCE, file), 'utf8');
    for (const [, name] of text.matchAll(/failpoints\.hit\('([^']+)'\)/g)) names.add(name ?? '');
    // A name that is computed would escape the list.
    if (/failpoints\.hit\((?!')/.test(text)) throw new Error(`${file} computes a failpoint's name`);
  }
  return [...names].toSorted();
}
