import { defineConfig } from 'vitest/config';

const FOLDERS = ['src', 'test'];
const WITH_POSTGRES = FOLDERS.map((folder) => `${folder}/**/*.pg.test.ts`);

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
        },
      },
      {
        test: {
          name: 'postgres',
          include: WITH_POSTGRES,
          globalSetup: ['test/global-setup.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
