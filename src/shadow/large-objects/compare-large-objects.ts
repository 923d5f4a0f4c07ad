import type { DifferenceList } from '#src/core/difference.ts';
import type { TableName } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { type ObjectDigest, readDigests } from './read-objects.ts';

/** How a large object is named among the differences: as a row of this catalog, by `loid`. */
export const LARGE_OBJECT_TABLE: TableName = { schema: 'pg_catalog', name: 'pg_largeobject' };

export type LargeObjectsOutcome = {
  readonly objects: number;
  readonly bytes: number;
  /** OIDs that are not the same, the first ones. */
  readonly different: readonly number[];
  /** For the verdict: what could not be read, on either side. */
  readonly unverified: readonly string[];
};

export const NO_LARGE_OBJECTS: LargeObjectsOutcome = {
  objects: 0,
  bytes: 0,
  different: [],
  unverified: [],
};

/** One repair mends so many; another comparison finds the rest. */
const DIFFERENT_MAX = 5_000;
const NAMED_MAX = 5;

/**
 * Compare every large object of both sides by its OID, length and SHA-256, inside the sessions'
 * transactions. Owners, grants and comments are not compared.
 */
export async function compareLargeObjects(
  pair: { readonly source: Session; readonly target: Session },
  found: DifferenceList,
  signal: AbortSignal,
): Promise<LargeObjectsOutcome> {
  const different: number[] = [];
  const unreadable: number[] = [];
  let objects = 0;
  let bytes = 0;
  const differs = (kind: 'missing' | 'extra' | 'changed', oid: number): void => {
    found.add({
      kind,
      table: LARGE_OBJECT_TABLE,
      key: { loid: String(oid) },
      columns: kind === 'changed' ? ['data'] : [],
    });
    if (different.length < DIFFERENT_MAX) different.push(oid);
  };
  for await (const { ours, theirs, oid } of inOrder(pair, signal)) {
    objects += ours === undefined ? 0 : 1;
    bytes += ours?.bytes ?? 0;
    if (isUnreadable(ours) || isUnreadable(theirs)) unreadable.push(oid);
    else if (theirs === undefined) differs('missing', oid);
    else if (ours === undefined) differs('extra', oid);
    else if (ours.digest !== theirs.digest || ours.bytes !== theirs.bytes) differs('changed', oid);
  }
  return { objects, bytes, different, unverified: describeUnreadable(unreadable) };
}

function isUnreadable(object: ObjectDigest | undefined): boolean {
  return object !== undefined && object.digest === undefined;
}

function describeUnreadable(oids: readonly number[]): readonly string[] {
  if (oids.length === 0) return [];
  const more = oids.length > NAMED_MAX ? ', …' : '';
  const named = `${oids.slice(0, NAMED_MAX).join(', ')}${more}`;
  return [`large objects ${named} (${oids.length} that the role may not read)`];
}

type Both = {
  readonly oid: number;
  readonly ours: ObjectDigest | undefined;
  readonly theirs: ObjectDigest | undefined;
};

/** Each OID that either side has. */
async function* inOrder(
  { source, target }: { readonly source: Session; readonly target: Session },
  signal: AbortSignal,
): AsyncGenerator<Both> {
  let after = 0;
  for (;;) {
    signal.throwIfAborted();
    const [a, b] = await Promise.all([readDigests(source, after), readDigests(target, after)]);
    // Past the end of a page nothing is known of its side yet.
    const end = Math.min(
      ...[a, b].filter(({ isLast }) => !isLast).map(({ objects }) => objects.at(-1)?.oid ?? 0),
    );
    const ours = byOid(a.objects, end);
    const theirs = byOid(b.objects, end);
    const oids = [...new Set([...ours.keys(), ...theirs.keys()])].toSorted((x, y) => x - y);
    for (const oid of oids) yield { oid, ours: ours.get(oid), theirs: theirs.get(oid) };
    if (end === Infinity) return;
    after = end;
  }
}

function byOid(objects: readonly ObjectDigest[], end: number): ReadonlyMap<number, ObjectDigest> {
  return new Map(objects.filter(({ oid }) => oid <= end).map((object) => [object.oid, object]));
}
