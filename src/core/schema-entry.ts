import { splitScript } from './sql-statements.ts';
import type { TableName } from './table.ts';

/** One object of a dump, as pg_dump's table of contents names it. */
export type Entry = {
  /** TABLE, INDEX, FK CONSTRAINT, ... */
  readonly kind: string;
  /** For people: `shop.orders orders_pkey`. */
  readonly object: string;
  readonly statements: readonly string[];
};

// A name may hold "; Type: " itself, so the last match on the line is taken. The owner is always "-".
const HEADER = /^-- Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: .*$/;
const ACCESS_METHOD = /^SET default_table_access_method = (.+)$/;
/** What pg_dump says between entries for psql. A session of ours has settings of its own (trap 6). */
const SETTING = /^(?:SET [a-z_]+ =|SELECT pg_catalog\.set_config\()/;
/** The access method of a server as it comes, and of every table unless the dump says otherwise. */
const DEFAULT_ACCESS_METHOD = 'heap';

/**
 * The entries of a dump in its order, which is one in which they can be restored. Settings are dropped,
 * those that only newer servers know included (trap 4); only a table's access method stays with it.
 */
export function parseEntries(dump: string): readonly Entry[] {
  const entries: Entry[] = [];
  let statements: string[] = [];
  let accessMethod = DEFAULT_ACCESS_METHOD;
  for (const piece of splitScript(dump)) {
    if (piece.kind === 'comment') {
      const [header, name = '', kind = '', schema = ''] = HEADER.exec(piece.text) ?? [];
      if (header === undefined) continue;
      statements = [];
      const object = schema === '-' ? name : `${schema}.${name}`;
      entries.push({ kind, object, statements });
      continue;
    }
    const method = ACCESS_METHOD.exec(piece.text)?.[1];
    accessMethod = method ?? accessMethod;
    if (SETTING.test(piece.text)) continue;
    if (accessMethod !== DEFAULT_ACCESS_METHOD && takesAccessMethod(piece.text)) {
      statements.push(
        `SET LOCAL default_table_access_method = ${accessMethod}`,
        piece.text,
        `SET LOCAL default_table_access_method = ${DEFAULT_ACCESS_METHOD}`,
      );
      continue;
    }
    statements.push(piece.text);
  }
  return entries.filter((entry) => entry.statements.length > 0);
}

function takesAccessMethod(statement: string): boolean {
  return /^CREATE (?:UNLOGGED )?(?:TABLE|MATERIALIZED VIEW) /.test(statement);
}

/** One part of a name as the server prints it; keywords and odd names are quoted. */
const PART = String.raw`(?:"(?:[^"]|"")+"|[^\s".(),;]+)`;
const NAME = `(${PART})\\.(${PART})`;
/** Anything, where what is in quotes counts as one. */
const ANYTHING = String.raw`(?:"(?:[^"]|"")*"|[^"])*?`;

/** Where each kind of statement names its table. Inside a dump all names are qualified. */
const TABLE_PATTERNS: readonly RegExp[] = [
  `^CREATE (?:UNLOGGED |FOREIGN )?TABLE ${NAME}`,
  `^CREATE MATERIALIZED VIEW ${NAME}`,
  `^CREATE VIEW ${NAME}`,
  `^ALTER (?:FOREIGN )?TABLE (?:ONLY )?${NAME}`,
  `^CREATE (?:UNIQUE )?INDEX ${PART} ON (?:ONLY )?${NAME}`,
  `^CREATE (?:CONSTRAINT )?TRIGGER ${PART} (?:BEFORE|AFTER|INSTEAD OF) ${ANYTHING} ON ${NAME}`,
  `^CREATE RULE ${PART} AS\\s+ON [A-Z]+ TO ${NAME}`,
  `^CREATE POLICY ${PART} ON ${NAME}`,
].map((pattern) => new RegExp(pattern));

/** The table, view or materialised view that a statement creates or belongs to. */
export function parseTable(statement: string): TableName | undefined {
  for (const pattern of TABLE_PATTERNS) {
    const [, schema, name] = pattern.exec(statement) ?? [];
    if (schema !== undefined && name !== undefined) {
      return { schema: unquote(schema), name: unquote(name) };
    }
  }
  return undefined;
}

const ATTACHED = new RegExp(`^ALTER TABLE ONLY ${PART}\\.${PART} ATTACH PARTITION ${NAME}`);

/** The partition of `ALTER TABLE … ATTACH PARTITION`. */
export function parseAttachedPartition(statement: string): TableName | undefined {
  const [, schema, name] = ATTACHED.exec(statement) ?? [];
  if (schema === undefined || name === undefined) return undefined;
  return { schema: unquote(schema), name: unquote(name) };
}

export type ForeignKey = {
  readonly constraint: string;
  readonly references: TableName;
  /** pg_dump leaves ONLY out where the constraint goes on to partitions. */
  readonly isOnPartitioned: boolean;
  readonly isNotValid: boolean;
  readonly isNotEnforced: boolean;
};

const FOREIGN_KEY = new RegExp(
  `^ALTER (?:FOREIGN )?TABLE (ONLY )?${PART}\\.${PART}\\s+ADD CONSTRAINT (${PART}) ` +
    `FOREIGN KEY \\(${ANYTHING}\\) REFERENCES ${NAME}`,
);

/** The parts of `ALTER TABLE … ADD CONSTRAINT … FOREIGN KEY` that decide how it is added. */
export function parseForeignKey(statement: string): ForeignKey | undefined {
  const [matched, only, constraint = '', schema = '', name = ''] =
    FOREIGN_KEY.exec(statement) ?? [];
  if (matched === undefined) return undefined;
  return {
    constraint,
    references: { schema: unquote(schema), name: unquote(name) },
    isOnPartitioned: only === undefined,
    isNotValid: statement.endsWith(' NOT VALID'),
    isNotEnforced: / NOT ENFORCED(?: NOT VALID)?$/.test(statement),
  };
}

const INDEXED_CONSTRAINT = new RegExp(
  `^ALTER TABLE ONLY ${PART}\\.${PART}\\s+ADD CONSTRAINT ${PART} (?:PRIMARY KEY|UNIQUE|EXCLUDE) `,
);

/** Whether a constraint is one that builds an index. */
export function buildsIndex(statement: string): boolean {
  return INDEXED_CONSTRAINT.test(statement);
}

/** The name that a part of a dump stands for. */
export function unquote(part: string): string {
  return part.startsWith('"') ? part.slice(1, -1).replaceAll('""', '"') : part;
}
