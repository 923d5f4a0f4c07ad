import { expect, test } from 'vitest';

import { parseEntries, parseForeignKey, parseTable } from './schema-entry.ts';
import { parseSchemaScript } from './schema-script.ts';

function entry(kind: string, name: string, sql: string): string {
  return `--\n-- Name: ${name}; Type: ${kind}; Schema: s; Owner: -\n--\n\n${sql}\n\n\n`;
}

const parse = (dump: string) => parseSchemaScript(dump, { populated: [] });
const TABLE = entry('TABLE', 't', 'CREATE TABLE s.t (\n    a integer\n);');

test('settings between entries are dropped, those that only newer servers know included (trap 4)', () => {
  const dump = `SET transaction_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n${TABLE}`;
  expect(parseEntries(dump)).toEqual([
    { kind: 'TABLE', object: 's.t', statements: ['CREATE TABLE s.t (\n    a integer\n)'] },
  ]);
});

test('a table keeps an access method that is not the usual one', () => {
  const dump = `SET default_table_access_method = columnar;\n${TABLE}SET default_table_access_method = heap;\n${TABLE}`;
  expect(parseEntries(dump).map((parsed) => parsed.statements.length)).toEqual([3, 1]);
});

test.each<[statement: string, schema: string, name: string]>([
  ['CREATE TABLE s.t (\n)', 's', 't'],
  ['CREATE UNLOGGED TABLE "S ""x"".y"."a.b" ()', 'S "x".y', 'a.b'],
  ['ALTER TABLE ONLY s."t ON s.u"\n    ADD CONSTRAINT c CHECK (true)', 's', 't ON s.u'],
  ['CREATE UNIQUE INDEX "i ON s.u" ON ONLY s.t USING btree (a)', 's', 't'],
  ['CREATE TRIGGER "x ON a.b" BEFORE UPDATE OF "c ON d.e" ON s.t FOR EACH ROW', 's', 't'],
  ['CREATE CONSTRAINT TRIGGER x AFTER INSERT OR DELETE ON s.t DEFERRABLE', 's', 't'],
  ['CREATE RULE r AS\n    ON UPDATE TO s.t DO INSTEAD NOTHING', 's', 't'],
  ['CREATE POLICY "p ON q.r" ON s.t FOR SELECT USING (true)', 's', 't'],
])('the table of %s', (statement, schema, name) => {
  expect(parseTable(statement)).toEqual({ schema, name });
});

test('a foreign key is read with odd names', () => {
  const sql =
    'ALTER TABLE ONLY s."t (a) REFERENCES x"\n    ADD CONSTRAINT "c;" FOREIGN KEY ("a) REFERENCES q.r", b) REFERENCES s."u""(v"(a, b) DEFERRABLE';
  expect(parseForeignKey(sql)).toEqual({
    constraint: '"c;"',
    references: { schema: 's', name: 'u"(v' },
    isOnPartitioned: false,
    isNotValid: false,
    isNotEnforced: false,
  });
});

test('a foreign key is added without a look at the rows and validated later (trap 4)', () => {
  const script = parse(
    `${TABLE}${entry('FK CONSTRAINT', 't f', 'ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.t(a);')}`,
  );
  expect(script.steps.map((step) => [step.stage, step.statement])).toEqual([
    [
      'foreign-key',
      'ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.t(a) NOT VALID',
    ],
    ['validate', 'ALTER TABLE ONLY "s"."t" VALIDATE CONSTRAINT f'],
    ['analyze', 'ANALYZE "s"."t"'],
  ]);
});

test('a foreign key that was never validated stays so', () => {
  const script = parse(
    `${TABLE}${entry('FK CONSTRAINT', 't f', 'ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.t(a) NOT VALID;')}`,
  );
  expect(script.steps.map((step) => step.stage)).toEqual(['foreign-key', 'analyze']);
});

test('a foreign key to a table that is not selected is skipped and said so', () => {
  const script = parse(
    `${TABLE}${entry('FK CONSTRAINT', 't f', 'ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.gone(a);')}`,
  );
  expect(script.skipped).toEqual([
    {
      kind: 'FK CONSTRAINT',
      object: 's.t f',
      reason: 'it references "s"."gone", which is not selected',
    },
  ]);
  expect(script.steps.map((step) => step.stage)).toEqual(['analyze']);
});

test('event triggers, publications and subscriptions are skipped with their comments (trap 4)', () => {
  const script = parse(
    [
      TABLE,
      entry(
        'EVENT TRIGGER',
        'e',
        'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION s.f();',
      ),
      entry('COMMENT', 'EVENT TRIGGER e', `COMMENT ON EVENT TRIGGER e IS 'x';`),
      entry('PUBLICATION', 'p', 'CREATE PUBLICATION p;'),
      entry('SUBSCRIPTION', 'b', `CREATE SUBSCRIPTION b CONNECTION 'x' PUBLICATION p;`),
      entry('COMMENT', 'EXTENSION x', `COMMENT ON EXTENSION x IS 'y';`),
    ].join(''),
  );
  expect(script.skipped.map((skipped) => skipped.kind)).toEqual([
    'EVENT TRIGGER',
    'PUBLICATION',
    'SUBSCRIPTION',
  ]);
  expect(script.steps.map((step) => step.stage)).toEqual(['analyze']);
});
