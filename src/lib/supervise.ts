/** A part of a service: runs until aborted, or until it has a reason to end everything. */
export type Task = (signal: AbortSignal) => Promise<void>;

/**
 * Run tasks side by side. The first that ends, well or not, ends the others; returns when all have
 * ended, and throws the first failure. An abort from outside is not a failure of a task.
 */
export async function supervise(tasks: readonly Task[], signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const both = AbortSignal.any([signal, ended.signal]);
  let failure: { readonly error: unknown } | undefined;
  await Promise.all(
    tasks.map(async (task) => {
      try {
        await task(both);
      } catch (error) {
        // What the abort itself made fail says nothing.
        if (!both.aborted) failure = { error };
      } finally {
        ended.abort();
      }
    }),
  );
  if (failure !== undefined) throw failure.error;
  signal.throwIfAborted();
}
