import type { RelationShape, ShapeColumn, ShapeType } from './schema-shape.ts';
import { quoteIdentifier, quoteTable } from './table.ts';

/**
 * What became of a table between two of its shapes, and whether its changes may go on being applied.
 *
 * Tables are the same by OID and columns by attnum, so a rename is a rename. A change goes on only where
 * neither the rows nor what the stream says of them can differ from before; what is not known to be
 * harmless stops. Defaults, CHECKs, foreign keys, NOT NULL, indexes, triggers, comments and storage
 * parameters leave both alone.
 */
export type SchemaChange = {
  /** In words, as "table T was changed: …" continues. */
  readonly text: string;
  readonly verdict: Verdict;
  /** Rows on the source may have other values now, which no change of the stream has told. */
  readonly isSilent: boolean;
};

/**
 * - `goes on`: nothing to do;
 * - `resume`: stops until the target was adapted by hand; the changes of the stream are the whole
 *   difference then;
 * - `reseed`: stops, and must be copied again, because rows were changed by other means.
 */
export type Verdict = 'goes on' | 'resume' | 'reseed';

const ORDER: Readonly<Record<Verdict, number>> = { 'goes on': 0, resume: 1, reseed: 2 };

/** That of several changes at once: the worst. */
export function worstVerdict(changes: readonly SchemaChange[]): Verdict {
  return changes.reduce<Verdict>(
    (worst, { verdict }) => (ORDER[verdict] > ORDER[worst] ? verdict : worst),
    'goes on',
  );
}

export function describeChanges(changes: readonly SchemaChange[]): string {
  return changes.map(({ text }) => text).join('; ');
}

/** A shape without these columns, which are not part of the shadow. */
export function withoutColumns(shape: RelationShape, attnums: ReadonlySet<number>): RelationShape {
  return { ...shape, columns: shape.columns.filter(({ attnum }) => !attnums.has(attnum)) };
}

/** Every change from `before` to `after`, shapes of the same table; empty when it looks as it did. */
export function compareShapes(
  before: RelationShape,
  after: RelationShape,
): readonly SchemaChange[] {
  return [
    ...compareNames(before, after),
    ...compareColumns(before, after),
    ...compareIdentity(before, after),
    ...compareParents(before, after),
    ...comparePersistence(before, after),
    ...compareTypes(before, after),
  ];
}

/** The table is gone. */
export const DROPPED: SchemaChange = {
  text: 'it was dropped',
  verdict: 'reseed',
  isSilent: true,
};

/** A restored dump does that to every table. */
export const REPLACED: SchemaChange = {
  text: 'it was dropped, and another table has its name now',
  verdict: 'reseed',
  isSilent: true,
};

/** ATTACH and DETACH name the parent; a partition that its parent does not name any more was detached. */
export const DETACHED: SchemaChange = {
  text: 'it was detached from its partitioned table',
  verdict: 'resume',
  isSilent: false,
};

/**
 * The reasons of pg_event_trigger_table_rewrite_reason() are bits; a rewrite for no other reason than
 * another access method (8) leaves every value as it is.
 * https://www.postgresql.org/docs/current/functions-event-triggers.html
 */
export function rewriteChange(reason: number): SchemaChange {
  return reason === ACCESS_METHOD
    ? { text: 'its access method was changed', verdict: 'goes on', isSilent: false }
    : { text: 'its rows were rewritten', verdict: 'reseed', isSilent: true };
}

const ACCESS_METHOD = 8;

function stops(text: string): SchemaChange {
  return { text, verdict: 'resume', isSilent: false };
}

function compareNames(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  if (before.schema === after.schema && before.name === after.name) return [];
  return [stops(`it is called ${quoteTable(after)} now, and was ${quoteTable(before)}`)];
}

function compareColumns(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  const earlier = new Map(before.columns.map((column) => [column.attnum, column]));
  const later = new Set(after.columns.map(({ attnum }) => attnum));
  return [
    ...before.columns
      .filter(({ attnum }) => !later.has(attnum))
      .map(({ name }) => stops(`column ${quoteIdentifier(name)} was dropped`)),
    ...after.columns.flatMap((column) => {
      const old = earlier.get(column.attnum);
      return old === undefined ? [addedColumn(column)] : compareColumn(old, column);
    }),
  ];
}

function addedColumn(column: ShapeColumn): SchemaChange {
  const name = quoteIdentifier(column.name);
  const text = `column ${name} of type ${column.type} was added`;
  if (column.generated !== '') return stops(`generated ${text}`);
  // Its value is the same for every row, so the same ALTER on the target brings it.
  if (column.hasMissing) return { ...stops(`${text} with a default`), isSilent: true };
  return stops(text);
}

function compareColumn(old: ShapeColumn, now: ShapeColumn): readonly SchemaChange[] {
  const name = quoteIdentifier(now.name);
  const changes: SchemaChange[] = [];
  if (old.name !== now.name) {
    changes.push(stops(`column ${quoteIdentifier(old.name)} is called ${name} now`));
  }
  if (old.typeOid !== now.typeOid || old.typmod !== now.typmod) {
    changes.push(stops(`column ${name} is of type ${now.type} now, and was ${old.type}`));
  }
  if (old.generated !== now.generated) {
    const what = now.generated === '' ? 'is not generated any more' : 'is generated now';
    changes.push(stops(`column ${name} ${what}`));
  }
  if (old.identity !== now.identity) {
    changes.push(stops(`column ${name} ${IDENTITY[now.identity] ?? 'has another identity'}`));
  }
  if (old.isNotNull !== now.isNotNull) {
    const what = now.isNotNull ? 'does not accept NULL any more' : 'accepts NULL now';
    changes.push({ text: `column ${name} ${what}`, verdict: 'goes on', isSilent: false });
  }
  return changes;
}

const IDENTITY: Readonly<Record<string, string>> = {
  '': 'is no identity column any more',
  a: 'is an identity column now (GENERATED ALWAYS)',
  d: 'is an identity column now (GENERATED BY DEFAULT)',
};

const REPLICA_IDENTITY: Readonly<Record<string, string>> = {
  d: 'DEFAULT',
  i: 'USING INDEX',
  f: 'FULL',
  n: 'NOTHING',
};

function compareIdentity(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  // How the same columns came to be the identity does not matter, but FULL sends other old rows.
  const isSameKey = before.key.join() === after.key.join();
  if (isSameKey && before.identity === after.identity) return [];
  const word = `REPLICA IDENTITY ${REPLICA_IDENTITY[after.identity] ?? after.identity}`;
  if (isSameKey && isFull(before) === isFull(after)) {
    return [{ text: `it has ${word} now`, verdict: 'goes on', isSilent: false }];
  }
  if (after.key.length === 0 && !isFull(after)) {
    // It cannot stay published (trap 7), so the stream does not have all of its changes.
    return [{ text: 'it has no replica identity any more', verdict: 'reseed', isSilent: false }];
  }
  return [stops(`its rows are named by ${describeKey(after)} now (${word})`)];
}

function isFull(shape: RelationShape): boolean {
  return shape.identity === 'f';
}

function describeKey(shape: RelationShape): string {
  if (shape.key.length === 0) return 'all columns';
  const names = shape.columns.filter(({ attnum }) => shape.key.includes(attnum));
  return names.map(({ name }) => quoteIdentifier(name)).join(', ');
}

function compareParents(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  const changes: SchemaChange[] = [];
  if (before.partitionOf !== after.partitionOf) {
    if (before.partitionOf !== null) changes.push(DETACHED);
    if (after.partitionOf !== null) changes.push(stops('it was attached as a partition'));
  }
  if (before.inherits.join() !== after.inherits.join()) {
    changes.push(stops('it inherits from other tables now'));
  }
  return changes;
}

function comparePersistence(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  if (before.persistence === after.persistence) return [];
  const what = after.persistence === 'u' ? 'unlogged' : 'logged';
  return [{ text: `it is ${what} now`, verdict: 'reseed', isSilent: true }];
}

function compareTypes(before: RelationShape, after: RelationShape): readonly SchemaChange[] {
  const earlier = new Map(before.types.map((type) => [type.oid, type]));
  return after.types.flatMap((type) => {
    const old = earlier.get(type.oid);
    return old === undefined ? [] : [...compareLabels(old, type), ...compareAttributes(old, type)];
  });
}

/** A row holds a label's OID, so a label that was renamed is another text in rows that nobody touched. */
function compareLabels(old: ShapeType, now: ShapeType): readonly SchemaChange[] {
  const earlier = new Map(old.labels.map(({ oid, label }) => [oid, label]));
  const later = new Set(now.labels.map(({ oid }) => oid));
  const changes: SchemaChange[] = [];
  if (old.labels.some(({ oid }) => !later.has(oid))) {
    changes.push({ ...stops(`enum ${now.name} lost a label`), isSilent: true });
  }
  for (const { oid, label } of now.labels) {
    const was = earlier.get(oid);
    if (was === undefined) {
      changes.push({
        text: `enum ${now.name} has a new label ${quoteIdentifier(label)}, which the target lacks`,
        verdict: 'goes on',
        isSilent: false,
      });
    } else if (was !== label) {
      const names = `${quoteIdentifier(was)} of enum ${now.name} is ${quoteIdentifier(label)} now`;
      changes.push({ ...stops(`label ${names}`), isSilent: true });
    }
  }
  return changes;
}

function compareAttributes(old: ShapeType, now: ShapeType): readonly SchemaChange[] {
  if (JSON.stringify(old.attributes) === JSON.stringify(now.attributes)) return [];
  return [{ ...stops(`composite type ${now.name} has other attributes now`), isSilent: true }];
}
