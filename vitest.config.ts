import { defineConfig } from 'vitest/config';

const FOLDERS = ['src', 'test', 'bench'];
const WITH_POSTGRES = FOLDERS.map((folder) => `${folder}/**/*.pg.test.ts`);

/** Only so that a hang ends: many times what the longest test needs on two busy cores. */
const LIMIT_MS = 120_000;

export default defineConfig({
  test: {
    // Tests wait for servers more than they compute, so a few at once are no burden on two cores.
    maxWorkers: 3,
    projects: [
      {
        test: {
          name: 'plain',
          include: FOLDERS.map((folder) => `${folder}/**/*.test.ts`),
          exclude: WITH_POSTGRES,
          globalSetup: ['test/output-setup.ts'],
          testTimeout: LIMIT_MS,
          hookTimeout: LIMIT_MS,
        },
      },
      {
        test: {
          name: 'postgres',
          include: WITH_POSTGRES,
          globalSetup: ['test/output-setup.ts', 'test/global-setup.ts'],
          testTimeout: LIMIT_MS,
          hookTimeout: LIMIT_MS,
        },
      },
    ],
  },
});
