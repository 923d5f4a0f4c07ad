import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import type { Part } from './copy-plan.ts';
import { createCopyQueue } from './copy-queue.ts';

const part = (number: number, sourceBytes: number): Part => ({
  number,
  firstPage: number,
  endPage: undefined,
  sourceBytes,
});

test('the largest part of all tables comes first', () => {
  const queue = createCopyQueue<string>();
  queue.add('small', [part(0, 10), part(1, 5)]);
  queue.add('large', [part(0, 100), part(1, 7)]);
  const order = [];
  for (let next = queue.take(); next; next = queue.take()) {
    order.push(`${next.table}${next.part.number}`);
  }
  expect(order).toEqual(['large0', 'small0', 'large1', 'small1']);
});

test('a rewritten table restarts only when its last part in flight has landed', () => {
  const queue = createCopyQueue<string>();
  queue.add('t', [part(0, 3), part(1, 2), part(2, 1)]);
  queue.take();
  queue.take();
  expect(queue.voidTable('t')).toBe('partFinished');
  expect(queue.take()).toBeUndefined();
  expect(queue.isEmpty()).toBe(false);
  expect(queue.finish('t')).toBe('restartDue');
  queue.add('t', [part(0, 3)]);
  queue.take();
  expect(queue.finish('t')).toBe('tableFinished');
  expect(queue.isEmpty()).toBe(true);
});

test('whatever the order of landings, each table ends exactly once and with nothing in flight', () => {
  const run = fc.record({
    tables: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 5 }),
    steps: fc.array(fc.tuple(fc.nat(3), fc.nat(20)), { maxLength: 200 }),
  });
  fc.assert(
    fc.property(run, ({ tables, steps }) => {
      const queue = createCopyQueue<number>();
      for (const [table, parts] of tables.entries()) {
        queue.add(
          table,
          Array.from({ length: parts }, (_, number) => part(number, number)),
        );
      }
      const flying: number[] = [];
      const ended: number[] = [];
      const land = (isVoid: boolean, pick: number) => {
        const [table] = flying.splice(pick % flying.length, 1);
        const landing = isVoid ? queue.voidTable(table!) : queue.finish(table!);
        if (landing === 'partFinished') return;
        expect(flying).not.toContain(table);
        ended.push(table!);
      };
      for (const [kind, pick] of steps) {
        if (kind < 2) {
          const next = queue.take();
          if (next) flying.push(next.table);
        } else if (flying.length > 0) land(kind === 3, pick);
      }
      for (let next = queue.take(); next; next = queue.take()) flying.push(next.table);
      while (flying.length > 0) land(false, 0);
      expect(ended.toSorted((a, b) => a - b)).toEqual([...tables.keys()]);
      expect(queue.isEmpty()).toBe(true);
    }),
  );
});
