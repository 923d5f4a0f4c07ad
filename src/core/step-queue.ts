/** What has to be known of a step to run it beside others. */
export type QueuedStep = {
  readonly kind: string;
  /** Quoted name of its table; undefined when it has none. */
  readonly table: string | undefined;
};

/**
 * Hands out the steps of a stage so that no two wait for each other's lock. CREATE INDEX shares its table
 * with others of its kind; everything else wants it for itself, and would only hold up a worker.
 */
export class StepQueue<S extends QueuedStep> {
  readonly #pending: S[];
  readonly #running = new Set<S>();

  /** In order of preference. */
  constructor(steps: readonly S[]) {
    this.#pending = [...steps];
  }

  /** The next step that may start now; undefined when one must finish first, or none is left. */
  take(): S | undefined {
    const at = this.#pending.findIndex((step) => !this.#isBlocked(step));
    if (at < 0) return undefined;
    const [step] = this.#pending.splice(at, 1);
    if (step !== undefined) this.#running.add(step);
    return step;
  }

  finish(step: S): void {
    this.#running.delete(step);
  }

  get isEmpty(): boolean {
    return this.#pending.length === 0;
  }

  #isBlocked(step: S): boolean {
    if (step.table === undefined) return false;
    return [...this.#running].some(
      (other) => other.table === step.table && !(isShared(other) && isShared(step)),
    );
  }
}

function isShared(step: QueuedStep): boolean {
  return step.kind === 'INDEX';
}
