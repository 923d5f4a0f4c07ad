// Before `npm pack`: dist/ gets src/ without types, because Node refuses to strip them under
// node_modules. Nothing else changes, so lines and columns of a stack trace are those of the source.
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join, relative } from 'node:path';

const ROOT = join(import.meta.dirname, '..');
const SOURCE = join(ROOT, 'src');
const OUTPUT = join(ROOT, 'dist');

/** A literal that names one of our files: in an import, or as the entry of a worker or child process. */
const FILE_LITERAL = /(['"`])(#src\/|\.{1,2}\/)([\w./-]+)\.ts\1/g;

function withJsImports(code, file) {
  return code.replaceAll(FILE_LITERAL, (_, quote, start, path) => {
    if (start !== '#src/') return `${quote}${start}${path}.js${quote}`;
    const target = relative(dirname(file), path);
    return `${quote}${target.startsWith('.') ? target : `./${target}`}.js${quote}`;
  });
}

rmSync(OUTPUT, { recursive: true, force: true });
for (const file of globSync('**/*.*', { cwd: SOURCE })) {
  if (file.endsWith('.test.ts')) continue;
  mkdirSync(join(OUTPUT, dirname(file)), { recursive: true });
  if (file.endsWith('.ts')) {
    const code = stripTypeScriptTypes(readFileSync(join(SOURCE, file), 'utf8'));
    writeFileSync(join(OUTPUT, file.replace(/\.ts$/, '.js')), withJsImports(code, file));
  } else {
    cpSync(join(SOURCE, file), join(OUTPUT, file));
  }
}
