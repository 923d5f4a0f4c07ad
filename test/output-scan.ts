import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What tests put into rows, and into passwords: none of it may ever be said (I14, trap 21). */
export const ROW_MARKER = 'zqrow';
export const PASSWORD_MARKER = 'zqpass';

/** A place where something was said that must not be, without the thing itself. */
export type Leak = { readonly file: string; readonly line: number; readonly column: number };

/** Every place in the files of `folder` that holds a marker, or one of `secrets`. */
export async function scanOutput(
  folder: string,
  secrets: readonly string[] = [],
): Promise<readonly Leak[]> {
  const leaks: Leak[] = [];
  for (const file of (await readdir(folder)).toSorted()) {
    const lines = (await readFile(join(folder, file), 'utf8')).split('\n');
    lines.forEach((line, i) => {
      const said = withoutKeys(line);
      for (const word of [ROW_MARKER, PASSWORD_MARKER, ...secrets]) {
        const at = said.indexOf(word);
        if (at >= 0) leaks.push({ file, line: i + 1, column: at + 1 });
      }
    });
  }
  return leaks;
}

/** For people: where to look, one place a line. */
export function describeLeaks(folder: string, leaks: readonly Leak[]): string {
  const places = leaks.map(({ file, line, column }) => `  ${join(folder, file)}:${line}:${column}`);
  return [`${leaks.length} places hold a row value or a secret:`, ...places].join('\n');
}

/**
 * The one place where values may be: the key of a row that differs, which `verify` and `clone --verify`
 * print (docs/commands.md). It is blanked, so that positions stay and everything around it is looked at.
 */
function withoutKeys(line: string): string {
  const key = line.startsWith('{"type":"difference"') ? keyOfJson(line) : keyOfTable(line);
  return key === undefined ? line : line.replace(key, ' '.repeat(key.length));
}

function keyOfJson(line: string): string | undefined {
  try {
    const { key } = JSON.parse(line);
    return key === null || key === undefined ? undefined : JSON.stringify(key);
  } catch {
    // A process that was killed leaves half a line.
    return /"key":(\{[^}]*)/.exec(line)?.[1];
  }
}

/** A row of the table for people: table, kind, `column=value …`, columns. */
function keyOfTable(line: string): string | undefined {
  return /^\S+ +(?:missing|extra|changed) +(\S+=.*)$/.exec(line)?.[1];
}
