import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const KINDS = { trap: 'Traps', pain: 'Pains of', complaint: 'Complaints about' } as const;
type Kind = keyof typeof KINDS;
/** What the lists hold; traps beyond 27 belong to other parts of the product. */
const COUNTS = { trap: 27, pain: 25, complaint: 20 } as const;
const PARTS = /(trap|pain|complaint)s? (\d+(?:(?:, | and )\d+)*)/g;

/** `trap 12` and the like, as the titles of a test file cite them. */
function citationsIn(path: string): ReadonlySet<string> {
  const code = readFileSync(join(ROOT, path), 'utf8').replaceAll(/^\s*(?:\/\/|\/?\*).*$/gm, '');
  const cited = new Set<string>();
  for (const [group] of code.matchAll(/\((?:trap|pain|complaint)s? [^()]*\)/g)) {
    for (const [, kind, numbers = ''] of group.matchAll(PARTS)) {
      for (const [number] of numbers.matchAll(/\d+/g)) cited.add(`${kind} ${number}`);
    }
  }
  return cited;
}

const files = globSync('{src,test,bench}/**/*.test.ts', { cwd: ROOT }).filter(
  (path) => path !== 'test/traps.test.ts',
);
const citations = new Map(files.map((path) => [path, citationsIn(path)]));

type Entry = {
  readonly number: number;
  readonly isOurs: boolean;
  readonly tests: readonly string[];
};

function entriesOf(kind: Kind): readonly Entry[] {
  const text = readFileSync(join(ROOT, 'docs/traps.md'), 'utf8');
  const section = text.split('\n## ').find((part) => part.startsWith(KINDS[kind])) ?? '';
  return [...section.matchAll(/^\| (\d+) +\| .* \| (.*) \| (.*) \|$/gm)].map(
    ([, number, action = '', tests = '']) => ({
      number: Number(number),
      isOurs: !action.startsWith('does not apply'),
      tests: [...tests.matchAll(/`([^`]+)`/g)].map(([, path = '']) => path),
    }),
  );
}

describe.each(['trap', 'pain', 'complaint'] as const)('each %s', (kind) => {
  const entries = entriesOf(kind);

  test('is in docs/traps.md, with tests or with the reason why not', () => {
    expect(entries.map(({ number }) => number)).toEqual(
      Array.from({ length: COUNTS[kind] }, (_, i) => i + 1),
    );
    for (const { number, isOurs, tests } of entries) {
      expect([number, tests.length > 0]).toEqual([number, isOurs]);
    }
  });

  test('is cited by a title in each test that is named for it', () => {
    const missing = entries.flatMap(({ number, tests }) =>
      tests
        .filter((path) => citations.get(path)?.has(`${kind} ${number}`) !== true)
        .map((path) => `${kind} ${number}: ${path}`),
    );
    expect(missing).toEqual([]);
  });

  test('is cited by no test when it does not apply, or is not in the list', () => {
    const known = new Set(entries.filter(({ isOurs }) => isOurs).map(({ number }) => number));
    const strange = [...citations].flatMap(([path, cited]) =>
      [...cited]
        .filter((one) => one.startsWith(`${kind} `))
        .filter((one) => !known.has(Number(one.split(' ')[1])))
        .filter((one) => !(kind === 'trap' && Number(one.split(' ')[1]) > COUNTS.trap))
        .map((one) => `${path}: ${one}`),
    );
    expect(strange).toEqual([]);
  });
});
