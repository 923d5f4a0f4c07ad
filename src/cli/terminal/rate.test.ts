import { expect, test } from 'vitest';

import { RateWindow } from './rate.ts';

test('a rate is that of the last seconds, not of the whole time', () => {
  const rate = new RateWindow(5000);
  expect(rate.perSecond()).toBe(0);
  for (let second = 0; second <= 20; second += 1) rate.add(second * 1000, second * 100);
  expect(rate.perSecond()).toBe(100);
  for (let second = 21; second <= 30; second += 1) rate.add(second * 1000, 2000);
  expect(rate.perSecond()).toBe(0);
});

test('a counter that begins anew has no negative rate', () => {
  const rate = new RateWindow();
  rate.add(0, 1000);
  rate.add(1000, 2000);
  rate.add(2000, 0);
  rate.add(3000, 10);
  expect(rate.perSecond()).toBe(10);
});
