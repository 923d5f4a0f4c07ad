import { readSnapshots, type RecordedSnapshot } from './copy-ledger.ts';
import {
  adoptGeneration,
  endGeneration,
  type GenerationOptions,
  type HeldSnapshot,
  holdGeneration,
  type TakenSnapshot,
} from './generations.ts';

/** The snapshots that this run holds: usually one, more after a table was rewritten. */
export type LiveGenerations = {
  readonly get: (generation: number) => HeldSnapshot | undefined;
  readonly newest: () => HeldSnapshot | undefined;
  /** Take over what an earlier run left. */
  readonly adopt: (isWanted: (recorded: RecordedSnapshot) => boolean) => Promise<void>;
  /** The newest one, if it is newer than that, else one that is taken now. */
  readonly newerThan: (generation: number) => Promise<HeldSnapshot>;
  /** Production can vacuum past what no table needs any more. */
  readonly keepOnly: (isNeeded: (generation: number) => boolean) => Promise<void>;
  /** Nothing needs a snapshot any more, one that an earlier run left included. */
  readonly endAll: () => Promise<void>;
  /** Leave all to the next run. */
  readonly leave: () => void;
};

export type LiveGenerationsDeps = Omit<GenerationOptions, 'target'> & {
  readonly held: readonly HeldSnapshot[];
  readonly takeSnapshot: () => Promise<TakenSnapshot>;
  /** Run with a session on the ledger, again when it is lost. */
  readonly onLedger: <T>(work: (target: GenerationOptions['target']) => Promise<T>) => Promise<T>;
};

export function createLiveGenerations(deps: LiveGenerationsDeps): LiveGenerations {
  const live = new Map<number, HeldSnapshot>();
  /** One at a time, so that tables that restart together share one new snapshot. */
  let turn: Promise<unknown> = Promise.resolve();

  const add = (held: HeldSnapshot): HeldSnapshot => {
    live.set(held.generation, held);
    void held.lost.then(() => live.delete(held.generation));
    return held;
  };
  const newest = (): HeldSnapshot | undefined =>
    [...live.values()].toSorted((a, b) => b.generation - a.generation)[0];
  const take = async (): Promise<HeldSnapshot> => {
    const taken = await deps.takeSnapshot();
    try {
      return add(await deps.onLedger(async (target) => holdGeneration({ ...deps, target }, taken)));
    } catch (error) {
      // The first failure is the one to report.
      await taken.release().catch(() => undefined);
      throw error;
    }
  };
  for (const held of deps.held) add(held);

  return {
    get: (generation) => live.get(generation),
    newest,
    adopt: async (isWanted) => {
      const recorded = await deps.onLedger(async (target) => readSnapshots(target, deps.shadowId));
      for (const one of recorded) {
        if (live.has(one.generation) || !isWanted(one)) continue;
        const held = await deps.onLedger(async (target) =>
          adoptGeneration({ ...deps, target }, one),
        );
        if (held !== undefined) add(held);
      }
    },
    newerThan: async (generation) => {
      const mine = turn.then(async () => {
        const known = newest();
        return known !== undefined && known.generation > generation ? known : take();
      });
      turn = mine.catch(() => undefined);
      return mine;
    },
    keepOnly: async (isNeeded) => {
      for (const held of live.values()) {
        if (isNeeded(held.generation)) continue;
        live.delete(held.generation);
        await deps.onLedger(async (target) => endGeneration({ ...deps, target }, held));
        await held.end();
      }
    },
    endAll: async () => {
      await deps.onLedger(async (target) => {
        for (const recorded of await readSnapshots(target, deps.shadowId)) {
          if (recorded.exported.length > 0) await endGeneration({ ...deps, target }, recorded);
        }
      });
      await Promise.all([...live.values()].map(async (held) => held.end()));
      live.clear();
    },
    leave: () => {
      for (const held of live.values()) held.leave();
    },
  };
}
