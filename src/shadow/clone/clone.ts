import { hostname } from 'node:os';

import { readRelations } from '#src/db/postgres/catalog/catalog.ts';
import { ANSWER_MS_MAX, openSession, type Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { runCheck } from '#src/shadow/check/run-check.ts';
import { recordDefinitionOnly } from '#src/shadow/definition-only.ts';
import { requireOriginalTarget, takeLease } from '#src/shadow/lease.ts';
import { readShadows, type ShadowRecord, stopShadow } from '#src/shadow/ledger.ts';

import { buildShadow, type CloneState } from './build.ts';
import type { CloneDeps, CloneOptions } from './clone-options.ts';
import { isUnbound, recordDataset } from './dataset.ts';
import { refuseReplacedSource, registerShadow } from './register.ts';

/**
 * Make a shadow, or go on making it: everything that an earlier run has recorded is not done again.
 *
 *     check ─► ledger ─► publication, slot, snapshot ─► pre-data ─► copy ─► indexes, keys ─► follow
 *
 * Returns when the clone is complete (without following), when `untilLsn` is applied, or when another
 * command asked for the end. Throws PREFLIGHT_REFUSED, LEASE_HELD, what the parts throw, and
 * `signal.reason`. What only an operator can mend is also noted in the ledger.
 */
export async function clone(deps: CloneDeps, options: CloneOptions): Promise<void> {
  let known = await begin(deps, options);
  let rereads = 0;
  const state: CloneState = {
    isInStep: false,
    wasInStep: false,
    epoch: undefined,
    toldSequences: new Set(),
  };
  /** Until when lost connections are mended; a shadow that was never in step leaves that to a second run. */
  let recoverUntilMs: number | undefined;
  for (;;) {
    try {
      await attempt(deps, options, { ...known, state });
      return;
    } catch (error) {
      deps.signal.throwIfAborted();
      if (rereads < REREADS_MAX && (await isChangedEarly(options, known.shadow, error))) {
        rereads += 1;
        const message = `${describe(error)}; the tables are read again`;
        deps.report({ type: 'notice', level: 'warn', message });
        known = await begin(deps, options);
        continue;
      }
      const now = deps.clock.now();
      if (state.isInStep) recoverUntilMs = now + RECOVER_MS;
      state.isInStep = false;
      if (recoverUntilMs === undefined || now > recoverUntilMs || !isTransient(error)) {
        await noteStop(options, known.shadow, error);
        throw error;
      }
      deps.report({ type: 'notice', level: 'warn', message: `${describe(error)}; trying again` });
      await deps.clock.sleep(RETRY_MS, deps.signal);
    }
  }
}

/** How long a shadow that was in step waits for a server that is gone. */
const RECOVER_MS = 5 * 60_000;
const RETRY_MS = 1_000;
/** Each costs a slot; a production whose tables change all the time is better cloned when they do not. */
const REREADS_MAX = 5;

function describe(error: unknown): string {
  return error instanceof Error ? error.message : 'a connection was lost';
}

/** Whether production changed a table before anything was made from what it was. */
async function isChangedEarly(
  options: CloneOptions,
  { shadowId }: ShadowRecord,
  error: unknown,
): Promise<boolean> {
  if (!(error instanceof OperatorError) || error.code !== 'TABLE_CHANGED') return false;
  try {
    await using target = await openSession(options.target, { applicationName: 'understudy clone' });
    const shadow = (await readShadows(target)).find((one) => one.shadowId === shadowId);
    return shadow !== undefined && (await isUnbound(target, shadow));
  } catch {
    // The failure itself is thrown then.
    return false;
  }
}

/** Check, and find or make the shadow's row in the ledger. */
async function begin(deps: CloneDeps, options: CloneOptions) {
  const applicationName = 'understudy clone';
  await using source = await openSession(options.source, { applicationName });
  await using target = await openSession(options.target, { applicationName });
  await refuseReplacedSource({ source, target }, options);
  const checked = await runCheck({ ...options, source, target });
  options.onChecked(checked);
  if (checked.isRefused) {
    const refused = checked.findings.filter(({ severity }) => severity === 'refuse');
    throw new OperatorError(
      'PREFLIGHT_REFUSED',
      `${refused.length === 1 ? 'a check refuses' : `${refused.length} checks refuse`}: ${refused.map(({ id, object }) => `${id} (${object})`).join(', ')}`,
    );
  }
  deps.failpoints.hit('clone.beforeRegister');
  const shadow = await registerShadow({ source, target }, checked.tables, options);
  deps.failpoints.hit('clone.afterRegister');
  const relations = await readRelations(source, options.selection);
  await recordDefinitionOnly(target, shadow.shadowId, relations.unsupported);
  return { shadow, tables: relations };
}

async function attempt(
  deps: CloneDeps,
  options: CloneOptions,
  known: {
    readonly shadow: ShadowRecord;
    readonly tables: Awaited<ReturnType<typeof readRelations>>;
    readonly state: CloneState;
  },
): Promise<void> {
  const { shadowId } = known.shadow;
  await using control = await openSession(options.target, {
    applicationName: `understudy ${shadowId} control`,
    answerMsMax: ANSWER_MS_MAX,
  });
  const holder = `process ${process.pid} on ${hostname()}`;
  const { state } = known;
  const epoch = await takeLeaseSoon(control, shadowId, holder, deps).catch((error: unknown) => {
    throw whoseLease(error, state.epoch);
  });
  state.epoch = epoch;
  deps.failpoints.hit('clone.afterLease');
  // Only now: an earlier attempt, or another runner until this moment, has gone on with it.
  const found = (await readShadows(control)).find((one) => one.shadowId === shadowId);
  if (found === undefined) {
    throw new OperatorError('SHADOW_MISSING', `shadow ${shadowId} was dropped`);
  }
  // Before anything is made, ended or dropped on the source that is the original's.
  if (found.isFollowed) await requireOriginalTarget(control, shadowId);
  const shadow = (await isUnbound(control, found))
    ? await recordDataset(control, found, known.tables.tables)
    : found;
  await buildShadow(deps, options, { ...known, shadow, control, epoch });
}

/** The lease that we lost is held by our own connection that the server has not given up, or by a new runner. */
function whoseLease(error: unknown, mine: bigint | undefined): unknown {
  if (mine === undefined || !(error instanceof OperatorError) || error.code !== 'LEASE_HELD') {
    return error;
  }
  const isTaken = BigInt(error.detail['epoch'] ?? 0) > mine;
  return isTaken ? new OperatorError('LEASE_LOST', error.message, { cause: error }) : error;
}

/** The session of a runner that was just killed ends a moment later. */
async function takeLeaseSoon(
  control: Session,
  shadowId: string,
  holder: string,
  deps: CloneDeps,
): Promise<bigint> {
  const deadlineMs = deps.clock.now() + LEASE_WAIT_MS;
  for (;;) {
    try {
      return await takeLease(control, shadowId, holder);
    } catch (error) {
      const isHeld = error instanceof OperatorError && error.code === 'LEASE_HELD';
      if (!isHeld || deps.clock.now() > deadlineMs) throw error;
      await deps.clock.sleep(LEASE_RETRY_MS, deps.signal);
    }
  }
}

const LEASE_WAIT_MS = 3_000;
const LEASE_RETRY_MS = 100;

function isTransient(error: unknown): boolean {
  return (
    error instanceof OperatorError &&
    (error.code === 'CONNECTION_LOST' ||
      error.code === 'CONNECTION_FAILED' ||
      error.code === 'TIMELINE_CHANGED' ||
      error.code === 'LEASE_HELD')
  );
}

/** So that `status` says it after this process has gone. What a mere second run mends is not noted. */
async function noteStop(
  options: CloneOptions,
  shadow: ShadowRecord,
  error: unknown,
): Promise<void> {
  if (!(error instanceof OperatorError) || error.onError === 'retry') return;
  if (error.code === 'LEASE_HELD' || error.code === 'LEASE_LOST') return;
  try {
    await using target = await openSession(options.target, { applicationName: 'understudy clone' });
    await stopShadow(target, shadow.shadowId, error);
  } catch {
    // The failure itself is thrown; that it could not be noted adds nothing.
  }
}
