import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, expect, test } from 'vitest';

// A boundary rule that matches nothing passes every build. So each rule is shown one violation, in a
// copy of the project that holds nothing else, and the linter has to name it.

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..');

/** Lowest first, said again here on purpose: the linter's own list may be wrong. */
const ROWS = [
  ['lib'],
  ['core'],
  ['wire', 'stats'],
  ['db', 'stream'],
  ['shadow', 'capture', 'gateway', 'compare', 'advise', 'adapt', 'provision'],
  ['control'],
  ['cli'],
];
const PURE = ['core', 'wire', 'stats'];

const IMPORTS = 'eslint(no-restricted-imports)';
const GLOBALS = 'eslint(no-restricted-globals)';

type Probe = { readonly path: string; readonly source: string; readonly rule: string | undefined };

const rank = (layer: string): number => ROWS.findIndex((row) => row.includes(layer));
const LAYERS = ROWS.flat();

/** Every pair of folders; allowed is only itself and what is lower. */
const walls: readonly Probe[] = LAYERS.flatMap((layer) =>
  LAYERS.map((other) => ({
    path: `src/${layer}/imports-${other}.ts`,
    source: `export * from '#src/${other}/anything.ts';`,
    rule: other === layer || rank(other) < rank(layer) ? undefined : IMPORTS,
  })),
);

const everywhere: readonly Probe[] = LAYERS.flatMap((layer) => [
  {
    path: `src/${layer}/imports-main.ts`,
    source: `export * from '#src/main.ts';`,
    rule: IMPORTS,
  },
  {
    path: `src/${layer}/imports-parent.ts`,
    source: `export * from '../lib/assert.ts';`,
    rule: IMPORTS,
  },
  {
    path: `src/${layer}/imports-fixture.ts`,
    source: `export * from '#test/postgres.ts';`,
    rule: IMPORTS,
  },
  {
    path: `src/${layer}/imports-disk.ts`,
    source: `export * from 'node:fs';`,
    rule: PURE.includes(layer) ? IMPORTS : undefined,
  },
  {
    path: `src/${layer}/reads-clock.ts`,
    source: 'export const now = (): number => Date.now();',
    rule: PURE.includes(layer) ? GLOBALS : undefined,
  },
  {
    path: `src/${layer}/reads-environment.ts`,
    source: `export const home = (): string | undefined => process.env['HOME'];`,
    rule: PURE.includes(layer) ? GLOBALS : undefined,
  },
  {
    path: `src/${layer}/rolls-dice.ts`,
    source: 'export const roll = (): number => Math.random();',
    rule: PURE.includes(layer) ? 'eslint(no-restricted-properties)' : undefined,
  },
  {
    path: `src/${layer}/imports-fixture.test.ts`,
    source: `export * from '#test/postgres.ts';`,
    rule: undefined,
  },
]);

const habits: readonly Probe[] = [
  {
    path: 'src/lib/ring-one.ts',
    source: `import { two } from './ring-two.ts';\nexport const one = (): number => two();`,
    rule: 'import(no-cycle)',
  },
  {
    path: 'src/lib/ring-two.ts',
    source: `import { one } from './ring-one.ts';\nexport const two = (): number => one();`,
    rule: 'import(no-cycle)',
  },
  {
    path: 'src/lib/prints.ts',
    source: `export const greet = (): void => console.log('hello');`,
    rule: 'eslint(no-console)',
  },
  {
    path: 'src/lib/forgets-promise.ts',
    source: `export function start(work: () => Promise<void>): void {\n  work();\n}`,
    rule: 'typescript(no-floating-promises)',
  },
  {
    path: 'src/lib/misuses-promise.ts',
    source: `export function every(list: string[], work: (item: string) => Promise<void>): void {\n  list.forEach(work);\n}`,
    rule: 'typescript(no-misused-promises)',
  },
  {
    path: 'src/lib/throws-text.ts',
    source: `export function fail(): never {\n  throw 'text';\n}`,
    rule: 'typescript(only-throw-error)',
  },
  {
    path: 'src/lib/any.ts',
    source: 'export const anything = (value: any): unknown => value;',
    rule: 'typescript(no-explicit-any)',
  },
  {
    path: 'src/lib/insists.ts',
    source: 'export const first = (list: string[]): string => list[0]!;',
    rule: 'typescript(no-non-null-assertion)',
  },
  {
    path: 'src/lib/forgets-case.ts',
    source: [
      `export function name(side: 'left' | 'right'): string {`,
      `  switch (side) {`,
      `    case 'left':`,
      `      return 'L';`,
      `  }`,
      `  return '';`,
      `}`,
    ].join('\n'),
    rule: 'typescript(switch-exhaustiveness-check)',
  },
];

const probes = [...walls, ...everywhere, ...habits];

let folder: string;
/** Path of a probe to the rules that the linter named for it. */
const named = new Map<string, string[]>();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'understudy-lint-'));
  for (const file of ['oxlint.config.ts', 'tsconfig.json', 'package.json']) {
    await copyFile(join(ROOT, file), join(folder, file));
  }
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  for (const probe of probes) {
    await mkdir(dirname(join(folder, probe.path)), { recursive: true });
    await writeFile(join(folder, probe.path), `${probe.source}\n`);
  }
  for (const { filename, code } of await lint()) {
    named.set(filename, [...(named.get(filename) ?? []), code]);
  }
}, 60_000);

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function lint(): Promise<readonly { filename: string; code: string }[]> {
  const oxlint = join(ROOT, 'node_modules/oxlint/bin/oxlint');
  try {
    await run(process.execPath, [oxlint, '--format', 'json'], {
      cwd: folder,
      maxBuffer: 1 << 26,
    });
  } catch (error) {
    // It fails, as it should, and says why on standard output.
    if (error instanceof Error && 'stdout' in error && error.stdout !== '') {
      return JSON.parse(String(error.stdout)).diagnostics;
    }
    throw error;
  }
  throw new Error('the linter objected to nothing');
}

type Verdicts = Readonly<Record<string, readonly string[]>>;

const wanted = (tried: readonly Probe[]): Verdicts =>
  Object.fromEntries(tried.map(({ path, rule }) => [path, rule === undefined ? [] : [rule]]));

/** What the linter says; beside the rule that a probe is about, others may object too. */
const heard = (tried: readonly Probe[]): Verdicts =>
  Object.fromEntries(
    tried.map(({ path, rule }) => {
      const rules = named.get(path) ?? [];
      return [path, rule !== undefined && rules.includes(rule) ? [rule] : rules];
    }),
  );

test.each(LAYERS)('%s/ imports itself and what is lower, and nothing else', (layer) => {
  const tried = walls.filter(({ path }) => path.startsWith(`src/${layer}/`));
  expect(heard(tried)).toEqual(wanted(tried));
});

test.each(LAYERS)('%s/ keeps to its place, and stays pure if it must', (layer) => {
  const tried = everywhere.filter(({ path }) => path.startsWith(`src/${layer}/`));
  expect(heard(tried)).toEqual(wanted(tried));
});

test.each(habits)('the linter sees that $path breaks $rule', (probe) => {
  expect(heard([probe])).toEqual(wanted([probe]));
});

test('the linter knows exactly the folders that this test knows', async () => {
  const config: { default: { overrides: { files: string[] }[] } } = await import(
    join(ROOT, 'oxlint.config.ts')
  );
  const folders = config.default.overrides
    .flatMap(({ files }) => files)
    .flatMap((glob) => /^src\/([a-z]+)\/\*\*$/.exec(glob)?.[1] ?? []);
  expect(new Set(folders)).toEqual(new Set(LAYERS));
});

test('docs/errors.md has a section for every error code, and no other', async () => {
  const catalog = await readFile(join(ROOT, 'src/lib/errors.ts'), 'utf8');
  const entries = catalog.matchAll(/^ {2}([A-Z_]+): \{\n {4}onError: '(\w+)'/gm);
  const known = Object.fromEntries([...entries].map(([, code, onError]) => [code, onError]));
  expect(Object.keys(known).length).toBeGreaterThan(30);

  const docs = await readFile(join(ROOT, 'docs/errors.md'), 'utf8');
  const sections = docs.split(/^## /m).slice(1);
  // What happened, why, what to do, and what the program does next, which the catalogue says too.
  const form =
    /^([A-Z_]+)\n\n\S[^]*\n\n\*\*Causes\.\*\* [^]*\n\n\*\*What to do\.\*\* [^]*\n\n\*\*Then\.\*\* `(\w+)`: /;
  const described = Object.fromEntries(
    sections.map((section) => form.exec(section)?.slice(1, 3) ?? [section.split('\n')[0], 'form']),
  );
  expect(described).toEqual(known);
});
