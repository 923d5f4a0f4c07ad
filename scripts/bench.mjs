// `npm run bench -- <name> [argument]...` runs bench/<name>.ts; without a name it lists them.
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';

const FOLDER = join(import.meta.dirname, '../bench');

const names = readdirSync(FOLDER)
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
  .map((file) => basename(file, '.ts'));
const [, , name] = process.argv;
if (names.includes(name)) {
  // The benchmark reads its arguments as if it had been started by itself.
  process.argv.splice(1, 2, join(FOLDER, `${name}.ts`));
  await import(process.argv[1]);
} else {
  console.error(`Usage: npm run bench -- <name> [argument]...\nNames: ${names.join(', ')}`);
  process.exitCode = 1;
}
