import type { CliEvent } from '#src/cli/events.ts';
import type { Failure } from '#src/cli/failure.ts';
import type { Interruption } from '#src/cli/interrupt.ts';
import type { ResultLine } from '#src/cli/lines.ts';

/** One event of every type: a new type does not compile until it is here, and so in the tests. */
export const EXAMPLE_EVENTS: { readonly [T in CliEvent['type']]: Extract<CliEvent, { type: T }> } =
  {
    phaseStarted: { type: 'phaseStarted', phase: 'copying', shadowId: 'a1b2c3d4' },
    tableProgress: {
      type: 'tableProgress',
      table: { schema: 'shop', name: 'Order Line' },
      rows: 1200,
      bytes: 96_000,
      rowsEstimate: 2400,
      state: 'copying',
    },
    copyProgress: {
      type: 'copyProgress',
      tables: 29,
      tablesCopied: 3,
      rows: 150_000,
      bytes: 40_000_000,
      heapBytes: 30_000_000,
      heapBytesTotal: 60_000_000,
      parts: 7,
    },
    stepFinished: {
      type: 'stepFinished',
      stage: 'index',
      object: 'shop.orders_customer',
      done: 5,
      total: 31,
    },
    lag: {
      type: 'lag',
      sourceHeadLsn: '0/5A3B2C10',
      sentLsn: '0/5A3B2C10',
      receivedLsn: '0/5A3B2B00',
      durableLsn: '0/5A3B2A00',
      appliedLsn: '0/5A3B2000',
      lagBytes: 3088,
      lagMs: 12,
      transactionsApplied: 1380,
      rowsApplied: 4186,
      spoolBytes: 33_000,
      sourceWalBytes: 12_000_000,
      sourceWalBytesMax: 10_737_418_240,
    },
    verifyProgress: {
      type: 'verifyProgress',
      table: { schema: 'crm', name: 'customer' },
      tablesVerified: 4,
      tables: 29,
      rows: 90_000,
    },
    verified: {
      type: 'verified',
      scope: 'full',
      lsn: '0/5A721A90',
      tables: 29,
      rows: 300_123,
      chunksRead: 410,
      chunks: 410,
      differences: 0,
      unverified: [],
      elapsedMs: 1412,
    },
    notice: { type: 'notice', level: 'warn', message: 'the source answers slowly' },
    loadProgress: { type: 'loadProgress', transactions: 1104, rolledBack: 46, failed: 0 },
  };

type AnyResult = ResultLine | Failure | Interruption;

/** The same for what is printed besides events. */
export const EXAMPLE_RESULTS: {
  readonly [T in AnyResult['type']]: Extract<AnyResult, { type: T }>;
} = {
  finding: {
    type: 'finding',
    id: 'table-without-key',
    severity: 'refuse',
    object: 'table "shop"."log"',
    cause: 'it has no primary key, so its updates and deletes cannot be followed',
    fix: { runOn: 'source', text: 'ALTER TABLE "shop"."log" ADD PRIMARY KEY (id);' },
  },
  checked: { type: 'checked', tables: 29, refusals: 1, warnings: 0 },
  difference: {
    type: 'difference',
    kind: 'changed',
    table: { schema: 'shop', name: 'orders' },
    key: { id: '17' },
    columns: ['status'],
    cause: null,
  },
  repaired: { type: 'repaired', rows: 1, differences: 0 },
  shadow: {
    type: 'shadow',
    shadowId: 'a1b2c3d4',
    source: 'me@production:5432/shop',
    phase: 'following',
    isFollowed: true,
    isRunning: true,
    holder: 'process 4711 on host',
    slotName: 'understudy_a1b2c3d4',
    spoolDirectory: '/home/me/.understudy/spool/a1b2c3d4',
    stop: null,
    tables: 29,
    tablesCopied: 29,
    rowsCopied: 300_123,
    steps: 154,
    stepsDone: 154,
    stoppedTables: [],
    lag: null,
    sourceWalEtaMs: null,
    verification: null,
  },
  listed: { type: 'listed', shadows: 1 },
  dropped: { type: 'dropped', shadowId: 'a1b2c3d4', removed: ['slot understudy_a1b2c3d4'] },
  demoStarted: { type: 'demoStarted' },
  serverStarted: {
    type: 'serverStarted',
    role: 'production',
    version: '14.23',
    url: 'postgres://postgres:secret@127.0.0.1:5555/shop',
  },
  shopLoaded: { type: 'shopLoaded', tables: 29, rows: 298_729, elapsedMs: 2700 },
  demoFinished: {
    type: 'demoFinished',
    isClean: true,
    verifications: 2,
    differences: 0,
    transactions: 2400,
    failed: 0,
    elapsedMs: 19_000,
  },
  error: {
    type: 'error',
    code: 'CONFIG_INVALID',
    message: 'unknown option',
    hint: 'Correct it.',
    detail: { option: '--jobs' },
  },
  interrupted: { type: 'interrupted', hint: 'run it again' },
};
