import { serverCpuSeconds } from './cpu.ts';
import { checkpoint, type ServerPair } from './servers.ts';

export type Measurement = {
  readonly seconds: number;
  /** Of the program that is measured; undefined when the servers do everything themselves. */
  readonly cpuSeconds: number | undefined;
  /** Other figures of the run, by name, such as seconds without the start of the process. */
  readonly extra?: Readonly<Record<string, number>>;
};

export type Contender = {
  readonly name: string;
  /** What the others are compared with. */
  readonly isReference: boolean;
  /**
   * Prepare what is needed, then call `measure` around what counts, then check the result. Throws when
   * the result is wrong, which voids the whole benchmark.
   */
  readonly run: (measure: Measure) => Promise<void>;
};

export type Measure = (work: () => Promise<Measurement>) => Promise<void>;

export type Sample = Measurement & {
  readonly contender: string;
  readonly round: number;
  /** Of both servers together, while it was measured. */
  readonly serverCpuSeconds: number | undefined;
};

/**
 * Run the contenders in turn, A B then B A: what drifts on a machine hits both alike, and the runs of a
 * round stand close enough to be compared with each other.
 */
export async function runRounds(options: {
  readonly servers: ServerPair;
  readonly contenders: readonly Contender[];
  readonly rounds: number;
}): Promise<readonly Sample[]> {
  const { servers, contenders, rounds } = options;
  const samples: Sample[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of round % 2 === 1 ? contenders : contenders.toReversed()) {
      let sample: Sample | undefined;
      await contender.run(async (work) => {
        await checkpoint(servers);
        const before = await bothCpuSeconds(servers);
        const measured = await work();
        const after = await bothCpuSeconds(servers);
        sample = {
          ...measured,
          contender: contender.name,
          round,
          serverCpuSeconds:
            before === undefined || after === undefined ? undefined : after - before,
        };
      });
      if (sample === undefined) throw new Error(`${contender.name} measured nothing`);
      samples.push(sample);
      console.error(`round ${round}: ${contender.name} ${sample.seconds.toFixed(2)} s`);
    }
  }
  return samples;
}

async function bothCpuSeconds({ source, target }: ServerPair): Promise<number | undefined> {
  const [ours, theirs] = await Promise.all([
    serverCpuSeconds(source.processId),
    serverCpuSeconds(target.processId),
  ]);
  return ours === undefined || theirs === undefined ? undefined : ours + theirs;
}
