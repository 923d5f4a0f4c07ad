import { describe, expect, test, vi } from 'vitest';

import { lsn } from '#src/core/lsn.ts';

import { ApplyGate } from './apply-gate.ts';

const LSN = lsn(1000n);

describe('a gate', () => {
  test('that is open lets everything pass', () => {
    const gate = new ApplyGate();
    expect(gate.isClosedFor(lsn(0n))).toBe(false);
    expect(gate.isClosedFor(LSN)).toBe(false);
    expect(gate.isReachedAt(LSN)).toBe(false);
  });

  test('that is closed now lets nothing pass', () => {
    const gate = new ApplyGate();
    void gate.close({ kind: 'now' });
    expect(gate.isClosedFor(lsn(0n))).toBe(true);
    expect(gate.isClosedFor(lsn(0n))).toBe(true);
  });

  test('that is closed until a position lets exactly the commits before it pass (I4)', () => {
    const gate = new ApplyGate();
    void gate.close({ kind: 'until', lsn: LSN });
    expect(gate.isClosedFor(lsn(0n))).toBe(false);
    expect(gate.isClosedFor(lsn(999n))).toBe(false);
    expect(gate.isClosedFor(lsn(1000n))).toBe(true);
    expect(gate.isReachedAt(lsn(1000n))).toBe(true);
  });
});

describe('who closes it', () => {
  test('hears where the loop stands, as often as it is told', async () => {
    const gate = new ApplyGate();
    const stands = gate.close({ kind: 'now' });
    gate.stand(lsn(7n));
    gate.stand(lsn(8n));
    expect(await stands).toBe(7n);
  });

  test('does not take the stand of an earlier limit for its own', async () => {
    const gate = new ApplyGate();
    const earlier = gate.close({ kind: 'now' });
    gate.stand(lsn(7n));
    expect(await earlier).toBe(7n);
    const later = gate.close({ kind: 'until', lsn: LSN });
    gate.stand(lsn(999n));
    expect(await later).toBe(999n);
  });

  test('hears that somebody else has changed the limit', async () => {
    const gate = new ApplyGate();
    const stands = gate.close({ kind: 'now' });
    gate.open();
    await expect(stands).rejects.toThrow('was changed');
  });

  test('need not listen', async () => {
    // An unhandled rejection would fail the test run.
    const gate = new ApplyGate();
    void gate.close({ kind: 'now' });
    gate.open();
    await new Promise((resolve) => setImmediate(resolve));
    expect(gate.isClosedFor(lsn(0n))).toBe(false);
  });
});

test('the loop hears of each change until it stops listening', () => {
  const gate = new ApplyGate();
  const listener = vi.fn<() => void>();
  const listening = gate.onChange(listener);
  void gate.close({ kind: 'now' });
  gate.open();
  listening[Symbol.dispose]();
  gate.open();
  expect(listener).toHaveBeenCalledTimes(2);
});
