import { assert } from '#src/lib/assert.ts';

import {
  buildsIndex,
  type Entry,
  parseAttachedPartition,
  parseEntries,
  parseForeignKey,
  parseTable,
  unquote,
} from './schema-entry.ts';
import { type Ownership, takeOwnership } from './schema-owners.ts';
import { quoteIdentifier, quoteTable, type TableName } from './table.ts';

/**
 * What is done after the data, in this order:
 *
 * - `index`: indexes and the constraints that build one, in any order and in parallel;
 * - `attach`: what needs them: partitions' indexes, replica identity, statistics objects, views that
 *   group by a key, comments;
 * - `foreign-key`: constraints that are added without a look at the rows;
 * - `validate`: everything that does look, so all rows must be there as of one position;
 * - `trigger`: triggers, rules, policies;
 * - `refresh`: materialised views, in order of dependency;
 * - `analyze`: statistics;
 * - `owner`: owners and grants (schema-owners.ts).
 */
export const STAGES = [
  'index',
  'attach',
  'foreign-key',
  'validate',
  'trigger',
  'refresh',
  'analyze',
  'owner',
] as const;
export type Stage = (typeof STAGES)[number];

/** A piece of post-data that is run, and recorded, in one transaction. */
export type Step = {
  readonly stage: Stage;
  readonly kind: string;
  readonly object: string;
  /** One or several statements, separated by semicolons. */
  readonly statement: string;
  readonly table: TableName | undefined;
};

/** An entry that is not restored, and why. */
export type Skipped = { readonly kind: string; readonly object: string; readonly reason: string };

export type SchemaScript = {
  /** Everything up to the data, in order. */
  readonly preData: readonly Entry[];
  readonly steps: readonly Step[];
  readonly skipped: readonly Skipped[];
  /** What is carried over only where the target has the roles. */
  readonly ownership: readonly Ownership[];
  /** The tables that `preData` creates, partitioned ones included. */
  readonly tables: readonly TableName[];
};

/** The kinds that only occur after the data; the first of them is where pre-data ends. */
const POST_DATA_KINDS = new Set([
  'CONSTRAINT',
  'CHECK CONSTRAINT',
  'FK CONSTRAINT',
  'INDEX',
  'INDEX ATTACH',
  'STATISTICS',
  'RULE',
  'TRIGGER',
  'POLICY',
  'ROW SECURITY',
  'EVENT TRIGGER',
  'PUBLICATION',
  'PUBLICATION TABLE',
  'PUBLICATION TABLES IN SCHEMA',
  'SUBSCRIPTION',
]);

const SKIPPED_KINDS: Readonly<Record<string, string>> = {
  'EVENT TRIGGER': 'it would fire for what the shadow does',
  PUBLICATION: 'it belongs to the source',
  'PUBLICATION TABLE': 'it belongs to the source',
  'PUBLICATION TABLES IN SCHEMA': 'it belongs to the source',
  SUBSCRIPTION: 'the shadow would receive the same changes twice',
  'SUBSCRIPTION TABLE': 'the shadow would receive the same changes twice',
  'SECURITY LABEL': 'its provider may not be loaded on the target',
};

/** Comments that come with their object, or whose object is skipped. */
const IMPLIED_COMMENT = /^COMMENT ON (?:EXTENSION|EVENT TRIGGER|PUBLICATION|SUBSCRIPTION) /;

/**
 * Cut a dump into what goes before the data and the steps after it. `populated` are the source's
 * materialised views that hold data; they are refreshed, the others stay without.
 */
export function parseSchemaScript(
  dump: string,
  options: {
    readonly populated: readonly TableName[];
    /** Foreign keys (see `constraintName`) that rows left out by a filter may break. */
    readonly unvalidated?: ReadonlySet<string>;
  },
): SchemaScript {
  const skipped: Skipped[] = [];
  const taken = takeOwnership(parseEntries(dump));
  const entries = taken.entries.filter((entry) => {
    const reason = SKIPPED_KINDS[entry.kind];
    // Ours are nobody's business.
    const isOurs = entry.kind === 'EVENT TRIGGER' && entry.object.startsWith('understudy_');
    if (reason !== undefined && !isOurs)
      skipped.push({ kind: entry.kind, object: entry.object, reason });
    return reason === undefined && !entry.statements.every((text) => IMPLIED_COMMENT.test(text));
  });
  const firstPostData = entries.findIndex((entry) => POST_DATA_KINDS.has(entry.kind));
  const preData = firstPostData < 0 ? entries : entries.slice(0, firstPostData);
  const postData = firstPostData < 0 ? [] : entries.slice(firstPostData);
  const known = { ...readTables(preData), unvalidated: options.unvalidated ?? new Set<string>() };
  const steps = postData.flatMap((entry) => classify(entry, known, skipped));
  const populated = new Set(options.populated.map(quoteTable));
  return {
    preData,
    skipped,
    ownership: taken.ownership,
    tables: [...known.tables.values()],
    steps: inStageOrder([
      ...steps,
      ...refreshSteps(entries, populated),
      ...analyzeSteps(known, entries),
    ]),
  };
}

type KnownTables = {
  /** By quoted name. */
  readonly tables: ReadonlyMap<string, TableName>;
  readonly partitioned: ReadonlySet<string>;
  /** Materialised views and tables: what exists once pre-data has run. */
  readonly relations: ReadonlySet<string>;
  readonly unvalidated: ReadonlySet<string>;
};

/** How a constraint is named among `unvalidated`. */
export function constraintName(table: TableName, constraint: string): string {
  return `${quoteTable(table)} ${quoteIdentifier(constraint)}`;
}

function readTables(preData: readonly Entry[]): Omit<KnownTables, 'unvalidated'> {
  const tables = new Map<string, TableName>();
  const partitioned = new Set<string>();
  const relations = new Set<string>();
  for (const statement of preData.flatMap((entry) => entry.statements)) {
    if (!statement.startsWith('CREATE ')) continue;
    const table = parseTable(statement);
    if (table === undefined) continue;
    const name = quoteTable(table);
    relations.add(name);
    if (!/^CREATE (?:UNLOGGED )?TABLE /.test(statement)) continue;
    tables.set(name, table);
    if (/\nPARTITION BY /.test(statement)) partitioned.add(name);
  }
  return { tables, partitioned, relations };
}

function classify(entry: Entry, known: KnownTables, skipped: Skipped[]): readonly Step[] {
  const [first = '', ...rest] = entry.statements;
  const { kind, object } = entry;
  const table = parseTable(first);
  const step = (stage: Stage, statement: string): Step => ({
    stage,
    kind,
    object,
    statement,
    table,
  });
  const whole = entry.statements.join(';\n');
  switch (kind) {
    case 'INDEX':
    case 'CONSTRAINT': {
      const isBuilt = kind === 'INDEX' || buildsIndex(first);
      if (!isBuilt) return [step('foreign-key', whole)];
      assert(table !== undefined, `an index without a table: ${object}`);
      const name = quoteTable(table);
      // A partitioned index is empty: quick, and it locks its partitions, which are busy with their own.
      const isAtOnce = known.partitioned.has(name) || !known.relations.has(name);
      if (isAtOnce) return [step('attach', whole)];
      // The rest locks the table against the builds beside it, which would end in deadlocks.
      return [step('index', first), ...rest.map((statement) => step('attach', statement))];
    }
    case 'FK CONSTRAINT':
      return foreignKeySteps(entry, known, { step, skipped });
    case 'CHECK CONSTRAINT':
      return [step(/ NOT (?:VALID|ENFORCED)$/.test(first) ? 'foreign-key' : 'validate', whole)];
    case 'RULE':
      return [step(first.startsWith('CREATE RULE ') ? 'trigger' : 'attach', whole)];
    case 'TRIGGER':
    case 'POLICY':
    case 'ROW SECURITY':
      return [step('trigger', whole)];
    case 'COMMENT':
      return [step(COMMENT_ON_LATE.test(first) ? 'trigger' : 'attach', whole)];
    default:
      // INDEX ATTACH, STATISTICS, and whatever pg_dump had to put off until its keys are there.
      return [step('attach', whole)];
  }
}

/** A constraint may be a foreign key; the others are made in the same stage or later. */
const COMMENT_ON_LATE = /^COMMENT ON (?:CONSTRAINT|TRIGGER|RULE|POLICY) /;

function foreignKeySteps(
  entry: Entry,
  known: KnownTables,
  context: {
    readonly step: (stage: Stage, statement: string) => Step;
    readonly skipped: Skipped[];
  },
): readonly Step[] {
  const { step, skipped } = context;
  const { kind, object } = entry;
  const statement = entry.statements.join(';\n');
  const foreignKey = parseForeignKey(statement);
  assert(foreignKey !== undefined, `a foreign key of unknown form: ${object}`);
  const references = quoteTable(foreignKey.references);
  if (!known.tables.has(references)) {
    skipped.push({ kind, object, reason: `it references ${references}, which is not selected` });
    return [];
  }
  if (foreignKey.isNotValid || foreignKey.isNotEnforced) return [step('foreign-key', statement)];
  const table = parseTable(statement);
  assert(table !== undefined, `a foreign key without a table: ${object}`);
  const isBroken = known.unvalidated.has(constraintName(table, unquote(foreignKey.constraint)));
  // NOT VALID is refused on partitioned tables before 18, and a validation before 18 does not reach the
  // constraint's copies for partitions that are referenced.
  if (foreignKey.isOnPartitioned || known.partitioned.has(references)) {
    if (!isBroken) return [step('validate', statement)];
    skipped.push({ kind, object, reason: `rows of ${references} are left out by a filter` });
    return [];
  }
  const added = step('foreign-key', `${statement} NOT VALID`);
  if (isBroken) return [added];
  return [
    added,
    step(
      'validate',
      `ALTER TABLE ONLY ${quoteTable(table)} VALIDATE CONSTRAINT ${foreignKey.constraint}`,
    ),
  ];
}

/** pg_dump writes a materialised view after those that it reads. */
function refreshSteps(entries: readonly Entry[], populated: ReadonlySet<string>): readonly Step[] {
  return entries.flatMap((entry): readonly Step[] => {
    if (entry.kind !== 'MATERIALIZED VIEW') return [];
    const view = entry.statements.map(parseTable).find((name) => name !== undefined);
    if (view === undefined || !populated.has(quoteTable(view))) return [];
    return [
      {
        stage: 'refresh',
        kind: entry.kind,
        object: entry.object,
        statement: `REFRESH MATERIALIZED VIEW ${quoteTable(view)}`,
        table: view,
      },
    ];
  });
}

/** One for each table that is not a partition: ANALYZE of a partitioned table reads its partitions, too. */
function analyzeSteps(known: KnownTables, entries: readonly Entry[]): readonly Step[] {
  const partitions = new Set(
    entries
      .filter((entry) => entry.kind === 'TABLE ATTACH')
      .flatMap((entry) => entry.statements.map(parsePartition)),
  );
  return [...known.tables]
    .filter(([name]) => !partitions.has(name))
    .map(([name, table]) => ({
      stage: 'analyze',
      kind: 'TABLE',
      object: `${table.schema}.${table.name}`,
      statement: `ANALYZE ${name}`,
      table,
    }));
}

/** The quoted name of the partition that a statement attaches. */
function parsePartition(statement: string): string | undefined {
  const partition = parseAttachedPartition(statement);
  return partition === undefined ? undefined : quoteTable(partition);
}

function inStageOrder(steps: readonly Step[]): readonly Step[] {
  return STAGES.flatMap((stage) => steps.filter((step) => step.stage === stage));
}
