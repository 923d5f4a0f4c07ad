import { parseArgs } from 'node:util';

export type BenchOptions = {
  readonly rounds: number;
  /** 1 is the size that docs/benchmarks.md describes. */
  readonly scale: number;
  /** Major version of both servers. */
  readonly server: number;
  /** Only those whose name contains it; all when empty. */
  readonly only: string;
};

const USAGE = `  --rounds N   rounds, each with every contender once (default 5)
  --scale S    size of the data, 1 is full (default %SCALE%)
  --server V   major version of both servers (default 15)
  --only NAME  only contenders (or workloads) whose name contains this`;

/** Read the command line; `undefined` after --help or a mistake, which is then printed. */
export function readOptions(
  name: string,
  defaults: { readonly scale: number },
): BenchOptions | undefined {
  const usage = `Usage: npm run bench -- ${name} [options]\n${USAGE.replace('%SCALE%', String(defaults.scale))}`;
  try {
    const { values } = parseArgs({
      options: {
        rounds: { type: 'string', default: '5' },
        scale: { type: 'string', default: String(defaults.scale) },
        server: { type: 'string', default: '15' },
        only: { type: 'string', default: '' },
        help: { type: 'boolean', default: false },
      },
    });
    const rounds = Number(values.rounds);
    const scale = Number(values.scale);
    const server = Number(values.server);
    if (values.help || !(rounds >= 1) || !(scale > 0) || !Number.isInteger(server)) {
      console.error(usage);
      process.exitCode = values.help ? 0 : 1;
      return undefined;
    }
    return { rounds: Math.round(rounds), scale, server, only: values.only };
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${usage}`);
    process.exitCode = 1;
    return undefined;
  }
}
