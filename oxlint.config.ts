import { defineConfig, type OxlintOverride } from 'oxlint';

/**
 * Lowest first. A folder may import itself and any row before its own, not a neighbour. Folders that
 * later issues bring are named already, so that the walls stand before the rooms do.
 */
const ROWS = [
  ['lib'],
  ['core'],
  ['wire', 'stats'],
  ['db', 'stream'],
  ['shadow', 'capture', 'gateway', 'compare', 'advise', 'adapt', 'provision'],
  ['control'],
  ['cli'],
];
const LAYERS = ROWS.flat();

/** These compute; they do not read the clock, the network, the disk or the environment. */
const PURE = ['core', 'wire', 'stats'];
const IMPURE_GLOBALS = ['process', 'Date', 'performance', 'setTimeout', 'setInterval', 'fetch'];

// Regexes, not globs: oxlint reads globs as gitignore lines, where a leading '#' is a comment, so
// '#src/...' would match nothing and say nothing. test/architecture.test.ts proves each rule fires.
const layerRules = LAYERS.map((layer): OxlintOverride => {
  const row = ROWS.findIndex((names) => names.includes(layer));
  const above = [...ROWS.slice(row).flat(), 'main\\.ts'].filter((name) => name !== layer).join('|');
  const patterns = [
    {
      regex: `^#src/(${above})`,
      message: `${layer}/ may not import this (see ARCHITECTURE.md).`,
    },
    {
      regex: '^\\.\\./',
      message: 'Cross folders with #src/, so the path names the layer.',
    },
    {
      regex: '^#test/',
      message: 'Product code does not import test fixtures.',
    },
  ];
  if (PURE.includes(layer)) {
    patterns.push({
      regex: '^node:(fs|net|tls|http|dns|os|process|timers|child_process|worker_threads)',
      message: `${layer}/ does no I/O.`,
    });
  }
  return {
    files: [`src/${layer}/**`],
    excludeFiles: ['**/*.test.ts'],
    rules: { 'no-restricted-imports': ['error', { patterns }] },
  };
});

export default defineConfig({
  plugins: ['eslint', 'typescript', 'unicorn', 'import', 'oxc', 'node', 'promise', 'vitest'],
  categories: { correctness: 'error', suspicious: 'error' },
  ignorePatterns: ['node_modules', 'dist'],
  options: { typeAware: true, reportUnusedDisableDirectives: 'error' },
  rules: {
    'import/no-cycle': 'error',
    'no-console': 'error',
    eqeqeq: 'error',
    'typescript/no-explicit-any': 'error',
    'typescript/no-floating-promises': 'error',
    'typescript/no-misused-promises': 'error',
    'typescript/await-thenable': 'error',
    'typescript/only-throw-error': 'error',
    'typescript/return-await': ['error', 'in-try-catch'],
    'typescript/switch-exhaustiveness-check': 'error',
    'typescript/consistent-type-imports': 'error',
    'typescript/no-non-null-assertion': 'error',
    // A statement order that matters (one session, one ledger) is what most of our loops are about.
    'no-await-in-loop': 'off',
  },
  overrides: [
    ...layerRules,
    {
      files: PURE.map((layer) => `src/${layer}/**`),
      rules: {
        'no-restricted-globals': ['error', ...IMPURE_GLOBALS],
        'no-restricted-properties': ['error', { object: 'Math', property: 'random' }],
      },
    },
    {
      files: ['**/*.test.ts'],
      rules: {
        'typescript/no-non-null-assertion': 'off',
        'vitest/no-standalone-expect': [
          'error',
          { additionalTestBlockFunctions: ['testFull', 'testFull.each'] },
        ],
      },
    },
    {
      files: ['bench/**', 'scripts/**'],
      rules: { 'no-console': 'off' },
    },
  ],
});
