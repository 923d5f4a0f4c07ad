import type { TestProject } from 'vitest/node';

import { type EmbeddedPostgres, startEmbeddedPostgres } from '#src/provision/embedded-postgres.ts';

import {
  embeddedStandIn,
  parseTestServers,
  SERVER_PASSWORD,
  type ServerAddress,
  TEST_SETTINGS,
  TEST_VERSIONS,
  type TestVersion,
} from './servers.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    postgres: Partial<Record<TestVersion, ServerAddress>>;
  }
}

/** One server per major for the whole run, unless UNDERSTUDY_TEST_POSTGRES names one. */
export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  const servers = parseTestServers(process.env['UNDERSTUDY_TEST_POSTGRES']);
  const missing = TEST_VERSIONS.filter((version) => servers[version] === undefined);
  const needed = new Set(missing.map(embeddedStandIn));
  const started: EmbeddedPostgres[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map(async (server) => server[Symbol.asyncDispose]()));
  };
  const starts = await Promise.allSettled(
    [...needed].map(async (version) => {
      const server = await startEmbeddedPostgres({
        version,
        password: SERVER_PASSWORD,
        settings: TEST_SETTINGS,
      });
      started.push(server);
      const { host, port, user, database } = server.endpoint;
      servers[version] = { host, port, user, database, password: SERVER_PASSWORD };
    }),
  );
  const failed = starts.find((start) => start.status === 'rejected');
  if (failed !== undefined) {
    await stop();
    throw failed.reason;
  }
  for (const version of missing) {
    const standIn = servers[embeddedStandIn(version)];
    if (standIn !== undefined) servers[version] = standIn;
  }
  project.provide('postgres', servers);
  return stop;
}
