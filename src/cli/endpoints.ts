import type { Endpoint } from '#src/core/endpoint.ts';
import { resolveStore } from '#src/db/postgres/endpoint/stores-file.ts';

import type { Run } from './run.ts';
import type { Shell } from './shell.ts';

/** The database that an option names: a URL, or a store of the --config file. Throws CONFIG_INVALID. */
export function resolveOption(
  text: string,
  deps: { readonly shell: Shell; readonly run: Run; readonly config: string | undefined },
): Endpoint {
  return resolveStore(text, {
    environment: deps.shell.env,
    storesPath: deps.config,
    warn: (message) => deps.run.screen.report({ type: 'notice', level: 'warn', message }),
  });
}
