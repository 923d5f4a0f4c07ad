import { expect, test, vi } from 'vitest';

import { createFailpoints } from './failpoint.ts';

test('dies at the named hit and only there', () => {
  const die = vi.fn<() => void>();
  const failpoints = createFailpoints('apply.beforeCommit:2,copy.afterCommit', die);
  failpoints.hit('apply.beforeCommit');
  failpoints.hit('unknown');
  expect(die).toHaveBeenCalledTimes(0);
  failpoints.hit('apply.beforeCommit');
  failpoints.hit('apply.beforeCommit');
  expect(die).toHaveBeenCalledTimes(1);
  failpoints.hit('copy.afterCommit');
  expect(die).toHaveBeenCalledTimes(2);
});
