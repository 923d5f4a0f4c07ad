import { assert } from '#src/lib/assert.ts';

import type { Part } from './copy-plan.ts';

/**
 * What landing a part means for its table. 'restartDue': the table was rewritten and nothing of it is in
 * flight any more, so it can be emptied and added again.
 */
export type Landing = 'partFinished' | 'tableFinished' | 'restartDue';

/** Which part is copied next, and when a table that was rewritten may start again. */
export type CopyQueue<T> = {
  /** `parts` may not be empty. */
  readonly add: (table: T, parts: readonly Part[]) => void;
  /** The largest part that waits, now in flight; undefined when none waits. */
  readonly take: () => { readonly table: T; readonly part: Part } | undefined;
  /** The part is committed. */
  readonly finish: (table: T) => Landing;
  /** The part found its table rewritten: all its parts are void, those in flight too. */
  readonly voidTable: (table: T) => Landing;
  /** No part waits and none is in flight. */
  readonly isEmpty: () => boolean;
  /** Parts in flight or waiting. */
  readonly partsLeft: () => number;
};

type TableState = { waiting: number; inFlight: number; isVoid: boolean };

/**
 * Parts in order of size, largest first, so that no large one is left for the end.
 *
 * Invariant: a table is reported 'tableFinished' or 'restartDue' once per `add`, and only when none of
 * its parts is in flight: emptying it then cannot race with a commit (trap 2).
 */
export function createCopyQueue<T>(): CopyQueue<T> {
  const states = new Map<T, TableState>();
  let waiting: { table: T; part: Part }[] = [];
  let isSorted = true;

  const stateOf = (table: T): TableState => {
    const state = states.get(table);
    assert(state !== undefined, 'a part belongs to a table of the queue');
    return state;
  };
  const land = (table: T): Landing => {
    const state = stateOf(table);
    assert(state.inFlight > 0, 'only a part in flight can land');
    state.inFlight -= 1;
    if (state.inFlight > 0 || state.waiting > 0) return 'partFinished';
    states.delete(table);
    return state.isVoid ? 'restartDue' : 'tableFinished';
  };

  return {
    add: (table, parts) => {
      assert(parts.length > 0, 'a table has at least one part');
      assert(!states.has(table), 'a table is in the queue once');
      states.set(table, { waiting: parts.length, inFlight: 0, isVoid: false });
      for (const part of parts) waiting.push({ table, part });
      isSorted = false;
    },
    take: () => {
      // The sort is stable: equal parts keep the order in which they were added.
      if (!isSorted) waiting.sort((a, b) => b.part.sourceBytes - a.part.sourceBytes);
      isSorted = true;
      const next = waiting.shift();
      if (next === undefined) return undefined;
      const state = stateOf(next.table);
      state.waiting -= 1;
      state.inFlight += 1;
      return next;
    },
    finish: land,
    voidTable: (table) => {
      const state = stateOf(table);
      state.isVoid = true;
      state.waiting = 0;
      waiting = waiting.filter((item) => item.table !== table);
      return land(table);
    },
    isEmpty: () => states.size === 0,
    partsLeft: () => [...states.values()].reduce((sum, s) => sum + s.waiting + s.inFlight, 0),
  };
}
